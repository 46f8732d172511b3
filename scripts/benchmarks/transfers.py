"""The suites `fetch` and `unpack`: imagefs beside the tool that does the like and no more.

`fetch` takes an image out of a real Docker Engine of its own, `unpack` mounts compressed archives
for the first time. Both compare wall times within one run.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.host import BenchError, call, find_program, machine, say, seconds, shell, warm
from benchmarks.plan import Plan
from benchmarks.workspace import Workspace, discard

_PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Packer:
    """A program that compresses, and its commands from standard input to standard output."""

    program: str
    pack: str
    unpack: str


_PACKERS = {
    "gzip": Packer("pigz", "pigz -6 -c", "pigz -dc"),
    "zstd": Packer("zstd", "zstd -q -3 -T0 -c", "zstd -q -dc"),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a comparison does, and how it is ended outside the measured time."""

    work: Callable[[], object]
    end: Callable[[], object] = lambda: None


def fetch(plan: Plan) -> None:
    """Time `imagefs fetch` beside `docker save -o`, in turn."""
    dockerd, docker = find_program("dockerd"), find_program("docker")
    if not dockerd or not docker:
        say("fetch: left out: dockerd is missing: apt install docker.io")
        return
    data, saved = plan.space.directory("dockerd"), plan.space.root / "saved.tar"
    cache = plan.space.root / "fetch-cache"
    with _engine(dockerd, data) as address:
        engine: list[str | Path] = [docker, "--host", address]
        loaded = call([*engine, "load", "--input", plan.archive])
        image = loaded.strip().splitlines()[-1].partition(": ")[2]
        imagefs = plan.programs.imagefs
        ours: list[str | Path] = [imagefs, "fetch", "--quiet", "--host", address, image]
        times = _in_turn(
            {
                "docker save -o": Turn(lambda: call([*engine, "save", "--output", saved, image])),
                "imagefs fetch": Turn(lambda: call(ours, env={"IMAGEFS_CACHE": str(cache)})),
            },
            [data / "overlay2"],
            [saved, cache],
            plan.repeat,
        )
    _tell_and_keep(plan.space, "fetch", {"": times})


def decompress(plan: Plan) -> None:
    """Time the first mount of compressed archives beside decompressing them to a file."""
    found = {}
    for name, packer in _PACKERS.items():
        if find_program(packer.program):
            found[name] = _decompress(plan, name, packer)
        else:
            say(f"unpack: without {name}: {packer.program} is missing")
    _tell_and_keep(plan.space, "unpack", found)


def _decompress(plan: Plan, name: str, packer: Packer) -> dict[str, list[float]]:
    root = plan.space.root
    plain, cache, mountpoint = root / "plain.tar", root / "cache", root / "mnt"
    mountpoint.mkdir(exist_ok=True)

    def pack(path: Path) -> None:
        shell(f"{packer.pack} <{plan.archive} >{path}", root)

    packed = plan.space.once(f"images/{plan.image}.{name}", pack)
    imagefs = plan.programs.imagefs
    mount: list[str | Path] = [imagefs, "mount", "--quiet", packed, mountpoint]
    return _in_turn(
        {
            packer.unpack: Turn(lambda: shell(f"{packer.unpack} <{packed} >{plain}", root)),
            "imagefs mount": Turn(
                lambda: call(mount, env={"IMAGEFS_CACHE": str(cache)}),
                lambda: call([imagefs, "unmount", mountpoint]),
            ),
        },
        [packed],
        [plain, cache],
        plan.repeat,
    )


def _in_turn(
    sides: dict[str, Turn], read: list[Path], made: list[Path], repeat: int
) -> dict[str, list[float]]:
    """Time both sides in turn, what they read in memory, and nothing left of what they make."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat):
        for name, turn in sides.items():
            warm(read)
            os.sync()
            times[name].append(seconds(turn.work))
            turn.end()
            for path in made:
                discard(path)
    return times


def _tell_and_keep(space: Workspace, suite: str, found: dict[str, dict[str, list[float]]]) -> None:
    for kind, times in found.items():
        (other, theirs), (_, ours) = times.items()
        say(
            f"{suite}: {kind} imagefs {median(ours):.2f} s, {other} {median(theirs):.2f} s:"
            f" {median(ours) / median(theirs):.2f} times"
        )
    space.keep(suite, {"machine": machine(), "times": found})


@contextmanager
def _engine(dockerd: str, data: Path) -> Iterator[str]:
    """Run a Docker Engine of our own; yield its address."""
    with tempfile.TemporaryDirectory(prefix="bench-dockerd-") as state:
        address = f"unix://{state}/socket"
        with open(Path(state) / "log", "wb") as log:
            engine = subprocess.Popen(
                [
                    dockerd, "--data-root", data, "--exec-root", f"{state}/exec",
                    "--host", address, "--pidfile", f"{state}/pid",
                    "--bridge=none", "--iptables=false", "--ip6tables=false",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            _await_engine(engine, Path(state))
            yield address
        finally:
            engine.terminate()
            engine.wait()


def _await_engine(engine: subprocess.Popen[bytes], state: Path) -> None:
    end = time.monotonic() + _PATIENCE
    version = ["docker", "--host", f"unix://{state}/socket", "version"]
    while "Server:" not in call(version, fine=range(256)):
        if engine.poll() is not None or time.monotonic() > end:
            last = (state / "log").read_text(errors="replace").strip().splitlines()[-1:]
            raise BenchError(f"dockerd does not start: {' '.join(last)}")
        time.sleep(0.1)
