"""The suites `fetch` and `unpack`: imagefs beside the tool that does the like and no more.

`fetch` takes an image out of a real Docker Engine of its own, `unpack` mounts for the first time
what is compressed, an archive as a whole or its layers. Both compare wall times within one run.
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

from benchmarks import archives
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
        times = in_turn(
            {
                "docker save -o": Turn(lambda: call([*engine, "save", "--output", saved, image])),
                "imagefs fetch": Turn(lambda: call(ours, env={"IMAGEFS_CACHE": str(cache)})),
            },
            [data / "overlay2"],
            [saved, cache],
            plan.repeat,
        )
    tell_and_keep(plan.space, "fetch", {"": times})


def decompress(plan: Plan) -> None:
    """Time the first mount of compressed archives beside decompressing them to a file."""
    found = {}
    for name, packer in _PACKERS.items():
        if find_program(packer.program):
            found[name] = _whole(plan, name, packer)
            found[f"layers in {name}"] = _layers(plan, name, packer)
        else:
            say(f"unpack: without {name}: {packer.program} is missing")
    tell_and_keep(plan.space, "unpack", found)


def _whole(plan: Plan, name: str, packer: Packer) -> dict[str, list[float]]:
    """Compare on `docker save | gzip`."""
    root = plan.space.root

    def pack(path: Path) -> None:
        shell(f"{packer.pack} <{plan.archive} >{path}", root)

    packed = plan.space.once(f"images/{plan.image}.{name}", pack)
    return _decompress(plan, packed, packer.unpack, f"{packer.unpack} <{packed} >plain/tar")


def _layers(plan: Plan, name: str, packer: Packer) -> dict[str, list[float]]:
    """Compare on an OCI layout; the other program unpacks one layer after the other."""
    root = plan.space.root

    def pack(plain: Path, path: Path) -> None:
        shell(f"{packer.pack} <{plain} >{path}", root)

    kind = f"tar+{name}"
    layout = archives.packed_layers(plan.space, plan.image, plan.archive, kind, pack)
    script = f'for one in {layout}/blobs/sha256/*; do {packer.unpack} <"$one" >plain/${{one##*/}}'
    # What is no layer is not compressed either.
    script += " 2>/dev/null || rm plain/${one##*/}; done"
    return _decompress(plan, layout, f"{packer.unpack}, each layer", script)


def _decompress(plan: Plan, packed: Path, other: str, script: str) -> dict[str, list[float]]:
    """Time a script that leaves files in `plain`, and mounting for the first time."""
    root = plan.space.root
    plain, cache, mountpoint = root / "plain", root / "cache", root / "mnt"
    mountpoint.mkdir(exist_ok=True)
    imagefs = plan.programs.imagefs
    mount: list[str | Path] = [imagefs, "mount", "--quiet", packed, mountpoint]
    # Modules are compiled once, as in an installation, whatever the caller's environment says.
    env = {
        "IMAGEFS_CACHE": str(cache),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(plan.space.directory("bytecode")),
    }
    call([imagefs, "inspect", "--quiet", packed], env=env)
    discard(cache)
    return in_turn(
        {
            other: Turn(lambda: shell(f"mkdir plain; {script}", root)),
            "imagefs mount": Turn(
                lambda: call(mount, env=env), lambda: call([imagefs, "unmount", mountpoint])
            ),
        },
        [packed],
        [plain, cache],
        plan.repeat,
    )


def in_turn(
    sides: dict[str, Turn], read: list[Path], made: list[Path], repeat: int
) -> dict[str, list[float]]:
    """Time all sides in turn, what they read in memory, and nothing left of what they make."""
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


def tell_and_keep(space: Workspace, suite: str, found: dict[str, dict[str, list[float]]]) -> None:
    """Say what each kind of work took, ours being the last, and keep it for the report."""
    for kind, times in found.items():
        *others, (_, ours) = times.items()
        for other, theirs in others:
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
