"""Mount container images as read-only directory trees, without extracting them."""

__version__ = "0.1.0"
