"""A catalogue of the licences in many images: licences.py SOURCE...

Debian's packages say theirs in /usr/share/doc/*/copyright, Python's in their metadata, Alpine's in
the package database. A function of our own looks at those files alone; of others no byte is read.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator

import imagefs
from imagefs.scanning.model import File

_DEBIAN = re.compile(rb"^License: *(\S+)", re.MULTILINE)
_PYTHON = re.compile(rb"^License(?:-Expression)?: *(.+)$", re.MULTILINE)
_ALPINE = re.compile(rb"^L:(.+)$", re.MULTILINE)


def licences(file: File) -> Iterator[str]:
    """Yield each licence that a file names, once."""
    for end, pattern in (
        ("/copyright", _DEBIAN),
        ("/METADATA", _PYTHON),
        ("/lib/apk/db/installed", _ALPINE),
    ):
        if file.path.endswith(end):
            found = pattern.findall(file.read())
            yield from sorted({one.decode("utf-8", "replace").strip() for one in found})


def main(*sources: str) -> int:
    """Print each licence with how many files that some image shows name it."""
    scan = imagefs.scan(sources, licences)
    counts = Counter(found.value for found in scan if any(found.shown))
    for licence, count in counts.most_common():
        sys.stdout.write(f"{count:6} {licence}\n")
    for failure in scan.failures:
        sys.stderr.write(f"{failure.source} {failure.path}: {failure.reason}\n")
    return 1 if scan.failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
