"""Label windows: their index on disk, their join to flows, and the rows that no flow matches."""
