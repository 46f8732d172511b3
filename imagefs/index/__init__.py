"""A layer as a table on disk."""
