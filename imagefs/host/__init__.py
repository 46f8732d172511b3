"""What only this machine knows: files, mounts, processes."""
