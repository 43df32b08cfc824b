"""From files on disk to a label-free manifest of videos and one table of labels for each task."""
