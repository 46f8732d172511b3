"""Many processes at once on one mount: do all get the right bytes, and none has to wait long?

`run` starts the processes and returns what they saw. Each goes through the tree again and again,
in an order of its own, and walks, lists, reads and compares; every single call is timed.
`scripts/soak` runs it for a minute.
"""

import hashlib
import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


@dataclass
class Report:
    """What one process saw: calls made, the longest in seconds, and what was wrong."""

    calls: int = 0
    longest: float = 0.0
    wrong: tuple[str, ...] = ()


def digests(root: Path) -> dict[str, str]:
    """Return the digest of every regular file below a directory, by its path there."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class _Worker:
    def __init__(self, root: Path, expected: dict[str, str], seed: int) -> None:
        self._root = root
        self._expected = expected
        self._random = random.Random(seed)
        self.report = Report()

    def _timed(self, call: Callable[[], Result]) -> Result:
        start = time.monotonic()
        result = call()
        self.report.calls += 1
        self.report.longest = max(self.report.longest, time.monotonic() - start)
        return result

    def find(self) -> None:
        """Walk the whole tree and look at each name."""
        queue = [self._root]
        seen = set()
        while queue:
            directory = queue.pop()
            for entry in self._timed(partial(_entries, directory)):
                if entry.is_dir(follow_symlinks=False):
                    queue.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    seen.add(os.path.relpath(entry.path, self._root))
                self._timed(partial(entry.stat, follow_symlinks=False))
        if seen != self._expected.keys():
            self.report.wrong += (f"find: {len(seen ^ self._expected.keys())} names differ",)

    def cat(self) -> None:
        """Read some files whole, in no order, and compare them."""
        names = list(self._expected)
        for name in self._random.sample(names, min(50, len(names))):
            content = self._timed((self._root / name).read_bytes)
            if hashlib.sha256(content).hexdigest() != self._expected[name]:
                self.report.wrong += (f"cat: {name} differs",)

    def grep(self) -> None:
        """Read one directory's files in order, bit by bit."""
        directory = (self._root / self._random.choice(list(self._expected))).parent
        for entry in sorted(self._timed(lambda: os.listdir(directory))):
            path = directory / entry
            if path.is_file() and not path.is_symlink():
                with path.open("rb", buffering=0) as file:
                    while self._timed(lambda: file.read(16384)):
                        pass


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _work(root: Path, expected: dict[str, str], seconds: float, seed: int) -> Report:
    worker = _Worker(root, expected, seed)
    tasks = (worker.find, worker.cat, worker.grep)
    until = time.monotonic() + seconds
    turn = seed
    while time.monotonic() < until:
        try:
            tasks[turn % len(tasks)]()
        except OSError as error:
            worker.report.wrong += (f"{tasks[turn % len(tasks)].__name__}: {error}",)
        turn += 1
    return worker.report


def run(root: Path, expected: dict[str, str], *, processes: int, seconds: float) -> Report:
    """Put a tree under load for about `seconds`; return what all processes saw together."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        reports = list(
            pool.map(
                _work,
                *zip(*((root, expected, seconds, seed) for seed in range(processes)), strict=True),
            )
        )
    return Report(
        sum(report.calls for report in reports),
        max(report.longest for report in reports),
        tuple(words for report in reports for words in report.wrong),
    )


def anonymous_memory(pid: int) -> int:
    """Return a process's anonymous memory in bytes (RssAnon, proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def main(root: Path, pid: int, seconds: float) -> None:
    """Load a mount, and print what came of it; exit with 1 if something was wrong."""
    expected = digests(root)
    run(root, expected, processes=16, seconds=min(5, seconds))
    before = anonymous_memory(pid)
    report = run(root, expected, processes=16, seconds=seconds)
    after = anonymous_memory(pid)
    sys.stdout.write(
        f"{len(expected)} files, 16 processes, {seconds:g} s: {report.calls} calls, the longest"
        f" {report.longest:.3f} s, {len(report.wrong)} wrong; anonymous memory"
        f" {before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after\n"
    )
    sys.exit(bool(report.wrong) or report.longest > 2)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
