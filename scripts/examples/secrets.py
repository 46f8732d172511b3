"""Private keys and tokens in many images, by a file of rules: secrets.py RULES SOURCE...

Each rule is a regular expression, a line each; secrets.txt beside this file has some. Prints a
table, the secrets themselves cut short, and which images still show them.
"""

import sys
from pathlib import Path

import imagefs
from imagefs.scanning.patterns import Grep, Which


def main(rules: str, *sources: str) -> int:
    """Print what was found; 1 if there was something."""
    patterns = tuple(line for line in Path(rules).read_bytes().splitlines() if line)
    search = Grep(patterns, text=True, which=Which(max_size=10 << 20))
    count = 0
    scan = imagefs.scan(sources, search)
    for found in scan:
        count += 1
        start = found.value.line.strip()[:12].decode("utf-8", "backslashreplace")
        shown = [one.name or one.source for one in found.showing]
        where = f"shown by {', '.join(shown)}" if shown else "deleted, and still in the layer"
        sys.stdout.write(f"{found.path}\t{start}...\t{found.step}\t{where}\n")
    for failure in scan.failures:
        sys.stderr.write(f"{failure.source} {failure.path}: {failure.reason}\n")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
