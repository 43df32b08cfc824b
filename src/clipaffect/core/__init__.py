"""Modules shared by all stages: errors, tasks, hashing, Parquet, the cache, video, progress."""
