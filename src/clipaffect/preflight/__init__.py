"""What a run will find, do and cost, told before any work."""
