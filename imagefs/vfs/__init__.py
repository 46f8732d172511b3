"""From layers to nodes."""
