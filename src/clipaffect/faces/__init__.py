"""Turn video into one aligned face crop for each frame and person."""
