"""Where the parts meet: fit, blend, recommend, explain, evaluate, snapshot."""
