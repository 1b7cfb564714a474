"""Training: the runner, its hooks, and how it gets from a config."""
