"""A run as DVC stages: write them, register results, adopt results from a remote."""
