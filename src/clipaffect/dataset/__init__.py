"""Turn files on disk into a label-free manifest of videos and a label table for each task."""
