"""Manual pages, made from the commands' own help."""
