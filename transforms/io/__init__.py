"""Storage: URLs, staged output, Parquet, spill files, progress counts; nothing that knows packets or flows."""
