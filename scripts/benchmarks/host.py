"""What the benchmark asks of the machine: programs run and timed, caches, processes, disk.

Owns the reading of /proc and the dropping of caches. Linux only, and root only.
"""

import mmap
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# What the largest work puts into the page cache, and some more.
_AT_HAND = 3 << 29
_ENVIRONMENT = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}


class BenchError(Exception):
    """Something that the benchmark needs failed; the message says what."""


def say(line: str = "") -> None:
    """Tell the user a line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def call(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    fine: Iterable[int] = (0,),
    env: dict[str, str] | None = None,
) -> str:
    """Run a program and return what it printed; BenchError unless its status is `fine`."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env=_ENVIRONMENT | (env or {}),
    )
    if done.returncode not in fine:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise BenchError(f"{' '.join(map(str, command))[:200]}: {' / '.join(last)}")
    return done.stdout


def shell(script: str, cwd: Path, fine: Iterable[int] = (0,)) -> str:
    """Run a line of shell and return what it printed."""
    return call(["bash", "-o", "pipefail", "-c", script], cwd=cwd, fine=fine)


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes, by the clock on the wall."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def find_program(*names: str) -> str | None:
    """Return the first of these programs that is installed."""
    for name in names:
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found:
            return found
    return None


# Caches


def forget_inodes() -> None:
    """Drop the kernel's directory entries and inodes; what files hold stays in memory."""
    Path("/proc/sys/vm/drop_caches").write_text("2\n")


def forget_all() -> None:
    """Drop all that the kernel has cached, contents too."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def warm(paths: Iterable[Path]) -> None:
    """Bring the contents of files, and of all files in directories, into the page cache."""
    for path in paths:
        if path.is_dir():
            shell("tar c . | cat >/dev/null", cwd=path)
        else:
            call(["dd", f"if={path}", "of=/dev/null", "bs=1M"])


def have_memory() -> None:
    """Have the host of a virtual machine give us the memory that a fresh mount will fill.

    A guest may hand what is free back after a few seconds. To get it again can take longer than
    all that is to be measured: seconds for a GiB, and for a while only. It is had in large pages,
    since the kernel's own file systems fill folios of that size, and small ones come out of them.
    """
    with mmap.mmap(-1, _AT_HAND) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for page in range(0, _AT_HAND, mmap.PAGESIZE):
            memory[page] = 1


def disk_bytes(paths: Iterable[Path]) -> int:
    """Return how much disk files and directories take."""
    there = [path for path in paths if path.exists()]
    if not there:
        return 0
    total = call(["du", "-s", "-c", "-x", "-B1", *there]).splitlines()[-1]
    return int(total.split()[0])


# Processes


def processes_of(mountpoint: Path) -> list[int]:
    """Return the processes that have a mount point on their command line: its daemons."""
    wanted = os.fsencode(mountpoint)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in words:
                found.append(int(entry.name))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes, and children that they waited for, have used."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def anonymous_bytes(pids: Iterable[int]) -> int:
    """Return the anonymous memory (RssAnon) that processes hold."""
    total = 0
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
    return total


def _stat(pid: int) -> list[bytes] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    family = [pid]
    for member in family:
        family += parents.get(member, [])
    return family


def peak_anonymous_bytes(command: Sequence[str | Path], env: dict[str, str]) -> tuple[float, int]:
    """Run a program; return its time and the most anonymous memory that it and its children held.

    Memory is looked at every 20 ms.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=_ENVIRONMENT | env,
    )
    peak = 0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.02):
            peak = max(peak, anonymous_bytes(family(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        status = process.wait()
        took = time.perf_counter() - start
    finally:
        over.set()
        watcher.join()
    if status:
        raise BenchError(f"{command[0]} ended with status {status}")
    return took, peak


def machine() -> str:
    """Describe the machine in a line: processor, memory, kernel."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} CPUs ({model}), {memory:.0f} GiB, Linux {platform.release()},"
        f" Python {platform.python_version()}"
    )
