"""From what the user typed to an image."""
