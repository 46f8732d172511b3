"""The kernel's own driver: images laid out as EROFS, their files where they are."""
