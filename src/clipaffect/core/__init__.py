"""Parts that every stage shares: errors, tasks, hashing, Parquet, the cache, video, progress."""
