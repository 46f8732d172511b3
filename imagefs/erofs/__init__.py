"""The kernel's own driver: an image laid out as EROFS, whose files lie in the archive or the store."""
