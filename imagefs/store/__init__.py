"""The cache, and the care for it."""
