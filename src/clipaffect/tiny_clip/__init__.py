"""A CLIP of the project's own, small enough to ship: trained on rendered heads with captions."""
