"""Scores after the head: smoothing, calibration and thresholds, chosen on training people."""
