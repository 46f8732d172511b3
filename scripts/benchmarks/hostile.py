"""The suite `hostile`: small archives that are made to cost much, each mounted and listed whole.

Measures time, and the most anonymous memory of all processes that take part: commands, indexers
and the daemon. Holds them to one bound: no archive of 10 MB takes more than
10 s of CPU, or 500 MB.
"""

import importlib.util
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import hostile_images
from benchmarks.host import BenchError, anonymous_bytes, call, cpu_seconds, family, machine, say
from benchmarks.plan import Plan
from benchmarks.workspace import discard

MAX_BYTES, MAX_SECONDS, MAX_MEMORY = 10 * 10**6, 10.0, 500 * 10**6
_PATIENCE = 600.0
"""Seconds after which a row is given up."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one archive cost: its bytes, seconds until it is listed whole, most bytes of memory.

    `cpu` is what imagefs used of the seconds, which others on the machine do not change. `stays` is
    the daemon's memory in the end; `names` is how many were listed, 0 if it was refused.
    """

    title: str
    size: int
    seconds: float
    cpu: float
    peak: int
    stays: int
    names: int

    @property
    def within(self) -> bool:
        """Whether it keeps the bound, if the bound is for an archive of its size."""
        small = self.size <= MAX_BYTES
        # Of the time, what others on the machine do not change.
        return not small or (self.cpu <= MAX_SECONDS and self.peak <= MAX_MEMORY)


def cases() -> dict[str, Callable[[Path], None]]:
    """Return all there are: what each is called, and what writes it."""
    found = dict(hostile_images.CASES)
    if importlib.util.find_spec("benchmarks.hostile_layers") is not None:
        found |= importlib.import_module("benchmarks.hostile_layers").CASES
    return found


def run(plan: Plan) -> None:
    """Measure; keep and tell the figures."""
    found = []
    for title, write in cases().items():
        if plan.rows and not any(word in title for word in plan.rows):
            continue
        archive = plan.space.root / "hostile.tar"
        write(archive)
        try:
            found.append(measure(title, archive, plan.programs.imagefs, plan.space.root))
        finally:
            discard(archive)
        say(f"hostile: {told(found[-1])}")
    plan.space.keep("hostile", {"machine": machine(), "rows": [asdict(one) for one in found]})


def told(row: Row) -> str:
    """Return a row in words."""
    verdict = "" if row.within else "; BEYOND THE BOUND"
    return (
        f"{row.title} ({row.size / 10**6:.1f} MB): {row.seconds:.1f} s ({row.cpu:.1f} of CPU),"
        f" {row.peak / 10**6:.0f} MB at the peak, {row.stays / 10**6:.0f} MB stay,"
        f" {row.names:,} names{verdict}"
    )


def measure(title: str, archive: Path, program: Path, room: Path) -> Row:
    """Mount an archive with an empty cache, and list it whole."""
    place, cache = room / "hostile-mnt", room / "hostile-cache"
    discard(cache)
    place.mkdir(exist_ok=True)
    start = time.monotonic()
    env = os.environ | {"IMAGEFS_CACHE": str(cache)}
    words = [program, "mount", "--foreground", "--quiet", archive, place]
    process = subprocess.Popen(words, env=env, stderr=subprocess.DEVNULL)
    names = stays = 0
    before = _ended()
    try:
        with _peak(process.pid) as peak:
            if _is_mounted(place, process):
                names = _list(place / hostile_images.LOOKS.get(title, "rootfs"))
            took = time.monotonic() - start
            stays, cpu = anonymous_bytes([process.pid]), cpu_seconds([process.pid])
    finally:
        process.send_signal(signal.SIGTERM)
        _end(process, place)
        discard(cache)
    if not names:
        cpu = _ended() - before
    return Row(title, archive.stat().st_size, took, cpu, peak[0], stays, names)


def _ended() -> float:
    """Return the CPU time of processes that were waited for, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _is_mounted(place: Path, process: "subprocess.Popen[bytes]") -> bool:
    """Wait until a mount is there; tell whether it came to be."""
    wanted = f" {place} "
    while wanted not in Path("/proc/self/mountinfo").read_text():
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    return True


def _list(root: Path) -> int:
    """Ask for the attributes of all names below a directory; return how many there are."""
    lister = subprocess.Popen(
        ["find", root, "-printf", "%i\n"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out = lister.stdout
    assert out is not None
    timer = threading.Timer(_PATIENCE, lister.kill)
    timer.start()
    try:
        count = sum(part.count(b"\n") for part in iter(lambda: out.read(1 << 20), b""))
        if lister.wait():
            raise BenchError(f"{root} could not be listed")
    finally:
        timer.cancel()
    return count


@contextmanager
def _peak(pid: int) -> Iterator[list[int]]:
    """Give the most memory, so far, of a process and all that descend from it."""
    found = [0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            found[0] = max(found[0], anonymous_bytes(family(pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def _end(process: "subprocess.Popen[bytes]", place: Path) -> None:
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        call(["umount", "--lazy", place])
