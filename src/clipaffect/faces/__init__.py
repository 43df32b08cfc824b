"""From video to one aligned face crop for every frame and person."""
