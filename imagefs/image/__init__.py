"""What an image is: its nouns, without any I/O."""
