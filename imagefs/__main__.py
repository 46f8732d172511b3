"""`python -m imagefs`."""

from imagefs.cli.main import main

main()
