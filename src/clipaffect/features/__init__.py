"""From face crops or files of features to one table for each encoder and task."""
