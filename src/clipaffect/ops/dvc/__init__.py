"""A run as DVC stages: written, registered, taken over from a remote."""
