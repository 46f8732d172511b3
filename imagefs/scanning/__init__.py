"""Many images, of which each layer is read once."""
