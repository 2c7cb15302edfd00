"""The mathematics of tuning: reward, learner, guard, off-policy estimates, experiments."""
