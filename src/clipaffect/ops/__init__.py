"""Around a run: launching, the preflight check, DVC, RO-Crates, conda environments."""
