"""The program `imagefs`, and `python -m imagefs`."""

import os
import sys

from imagefs import __version__


def main() -> None:
    """Run the command that the program's arguments are, and exit."""
    if sys.argv[1:] == ["--version"]:
        # Scripts ask for it again and again, so nothing is loaded to tell.
        try:
            os.write(1, f"imagefs {__version__}\n".encode())
            return
        except OSError:
            pass  # What is wrong is found, and told, as for every other command.
    from imagefs.cli.main import main as run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
