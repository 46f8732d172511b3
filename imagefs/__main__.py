"""`python -m imagefs`."""

from imagefs.cli import main

main()
