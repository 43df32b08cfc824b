"""Turn face crops or feature files into one table for each encoder and task."""
