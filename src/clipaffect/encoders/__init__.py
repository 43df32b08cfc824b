"""Frozen image encoders, loaded through open_clip, and the raw-pixel floor."""
