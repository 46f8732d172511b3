"""A command of an image, run in namespaces of its own."""
