"""Fast training steps: one head on a CPU, many heads stacked on a GPU."""
