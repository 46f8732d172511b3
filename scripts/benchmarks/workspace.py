"""The directory that a benchmark works in, and what it keeps there from one run to the next.

Owns where things lie and the promise that a thing that is there is whole. Knows nothing of what
the things are.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Workspace:
    """A benchmark's directory."""

    root: Path

    def directory(self, name: str) -> Path:
        """Return a directory of that name, made if need be."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the file or directory `name`; if it is not there, `make` is asked for it first.

        `make` writes to the path that it is given, which gets its name when it is whole.
        """
        final = self.root / name
        if not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = final.with_name(f"{final.name}.part")
            discard(temporary)
            make(temporary)
            temporary.rename(final)
        return final

    def keep(self, suite: str, results: dict[str, Any]) -> None:
        """Keep a suite's results for the report."""
        path = self.directory("results") / f"{suite}.json"
        path.write_text(json.dumps(results, indent=1) + "\n")

    def kept(self, suite: str) -> dict[str, Any] | None:
        """Return the results that a suite left last."""
        path = self.root / "results" / f"{suite}.json"
        if not path.exists():
            return None
        results: dict[str, Any] = json.loads(path.read_text())
        return results


def discard(path: Path) -> None:
    """Remove a file or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
