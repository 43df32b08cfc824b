"""Facial affect from video with a frozen image encoder and CVaR + SAM heads."""

__version__ = "0.1.0"
