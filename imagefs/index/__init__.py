"""A layer as a mapped table."""
