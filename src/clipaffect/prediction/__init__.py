"""From a trained head to anybody's video: answers for every frame and person."""
