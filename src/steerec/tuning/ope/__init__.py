"""Off-policy evaluation: what another strategy would have earned, from what was logged."""
