"""Apply trained heads to new videos: predictions for each frame and person."""
