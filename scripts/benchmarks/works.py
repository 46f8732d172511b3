"""The work that contestants are measured at: ordinary tools, run on a root directory.

Each work returns the seconds that it took. Those that are timed from inside their process say so
themselves, since starting Python would take longer than they do.
"""

import os
import random
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, run

from benchmarks.archives import BIG_BYTES, BIG_FILE
from benchmarks.host import BenchError, seconds, shell

FIND = r"find . -printf '%p %m %U %G %s %T@ %l\n'"
ABSENT = "zqxjkvbw-is-in-no-file"
SMALL = 16384
OPENED = 10_000
RANDOM_READS = 10_000

Work = Callable[[Path], float]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: its key, what it is called, and the work on a fresh mount.

    With `again` the same work is measured once more on the mount that it has warmed.
    """

    key: str
    title: str
    work: Work
    again: bool = False


def _shell(script: str, fine: tuple[int, ...] = (0,)) -> Work:
    return lambda root: seconds(lambda: shell(script, root, fine))


def _inside(task: str) -> Work:
    """Return work that another process does and times."""

    def work(root: Path) -> float:
        command = [sys.executable, "-m", "benchmarks.works", task, str(root)]
        done = run(command, stdout=PIPE, check=False, text=True, cwd=Path(__file__).parents[1])
        if done.returncode:
            raise BenchError(f"{task} failed on {root}")
        return float(done.stdout)

    return work


FILES = (
    Row("find", "`find` with stat of everything", _shell(f"{FIND} >/dev/null"), again=True),
    Row("grep", "`grep -r` over all files", _shell(f"grep -rF {ABSENT} . >/dev/null", (1,)),
        again=True),
    # GNU tar reads no file when it sees that it writes to /dev/null.
    Row("tar", "`tar c` of the root", _shell("tar c . | cat >/dev/null")),
    Row("du", "`du -s`", _shell("du -s . >/dev/null")),
    Row("finds", "16 `find`s at once",
        _shell(f"for n in $(seq 16); do {FIND} >/dev/null & done; wait")),
    Row("open", f"open, read, close {OPENED:,} small files, shuffled", _inside("open")),
)  # fmt: skip
BIG = (
    Row("sequential", "read a 1 GiB file", _shell(f"dd if={BIG_FILE} of=/dev/null bs=1M")),
    Row("random", f"{RANDOM_READS:,} random reads of 4 KiB", _inside("random")),
)


DIFF = Row("diff", "`diff -r` of two snapshots", lambda _root: 0.0)


def difference(pair: tuple[Path, Path]) -> Row:
    """Return the row DIFF with its work: to compare these two trees."""
    compare = f"diff -r --no-dereference {pair[0]} {pair[1]} >/dev/null"
    return Row(DIFF.key, DIFF.title, _shell(compare, (0, 1)))


def choose_small_files(root: Path, into: Path) -> None:
    """Write down which small files `open` is to read: the same for everybody."""
    found = []
    for at, _, names in os.walk(root):
        for name in names:
            path = os.path.join(at, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= SMALL:
                found.append(os.path.relpath(path, root))
    found.sort()
    chosen = random.Random(6).sample(found, min(OPENED, len(found)))
    into.write_bytes(b"\0".join(os.fsencode(name) for name in chosen))


def _open_small_files(root: Path) -> float:
    names = Path(os.environ["BENCH_SMALL_FILES"]).read_bytes().split(b"\0")
    os.chdir(root)
    start = time.perf_counter()
    for name in names:
        fd = os.open(name, os.O_RDONLY)
        os.read(fd, SMALL)
        os.close(fd)
    return time.perf_counter() - start


def _read_at_random(root: Path) -> float:
    choose = random.Random(4)
    places = [choose.randrange(BIG_BYTES // 4096) * 4096 for _ in range(RANDOM_READS)]
    start = time.perf_counter()
    fd = os.open(root / BIG_FILE, os.O_RDONLY)
    for place in places:
        os.pread(fd, 4096, place)
    os.close(fd)
    return time.perf_counter() - start


if __name__ == "__main__":
    _task, _root = sys.argv[1:]
    _tasks = {"open": _open_small_files, "random": _read_at_random}
    sys.stdout.write(str(_tasks[_task](Path(_root))))
