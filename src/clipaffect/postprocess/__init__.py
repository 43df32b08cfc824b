"""Post-processing: smoothing, calibration and thresholds, chosen on training people."""
