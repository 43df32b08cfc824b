"""A model to share: heads, preprocessing and evaluation protocol in one verified folder."""
