"""Training a network as an experiment describes it."""
