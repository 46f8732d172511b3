"""What is written on top of an image: the overlay, the directory that keeps it, its changes."""
