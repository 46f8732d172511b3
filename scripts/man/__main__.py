"""Writes the manual pages beside this module."""

from pathlib import Path

from scripts.man.pages import pages

for name, page in pages().items():
    (Path(__file__).parent / name).write_text(page)
