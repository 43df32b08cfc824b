"""Operations around a run: launching, preflight check, DVC, RO-Crates, conda environments."""
