"""The suite `scan`: a search of twenty images that share most layers, beside the ways around it.

Each image has four layers of a base and one of its own. The others mount one image after the
other and search it, or unpack it first; the scan begins with an empty cache, too, and runs with
one process and with two. What each finds must be the same.
"""

import random
import subprocess
from pathlib import Path
from statistics import median

from benchmarks import archives
from benchmarks.host import BenchError, machine, say, seconds, warm
from benchmarks.plan import Plan
from benchmarks.workspace import discard

_IMAGES = 20
_FILES, _BYTES = 2_000, 10_000
_WORDS = [b"%x" % (number * 2654435761 % 2**32) for number in range(5000)]
_NEEDLE = "NEEDLE-[0-9]+"


def run(plan: Plan) -> None:
    """Time the ways to search all images, and hold them to one answer."""
    images = plan.space.once("images/fleet", _fleet)
    every = sorted(images.glob("*.tar"))
    mountpoint, cache, room = (plan.space.directory(f"scan-{name}") for name in ("m", "c", "x"))
    imagefs = plan.programs.imagefs
    env = f"IMAGEFS_CACHE={cache}"
    listed = " ".join(map(str, every))
    mounts = (
        f"for one in {listed}; do {env} {imagefs} mount -q --view layers $one {mountpoint};"
        f" grep -rhoE {_NEEDLE} {mountpoint}; {env} {imagefs} unmount {mountpoint}; done"
    )
    unpacks = (
        f"for one in {listed}; do rm -rf {room}/*; tar -xf $one -C {room};"
        f" for layer in {room}/*/layer.tar; do mkdir $layer.d; tar -xf $layer -C $layer.d; done;"
        f" grep -rhoE --exclude=layer.tar {_NEEDLE} {room}; done"
    )
    ways = {"each image: mount, grep -r": mounts, "each image: tar x, grep -r": unpacks}
    for count in (1, 2):
        ways[f"imagefs scan, {count} processes"] = (
            f"{env} {imagefs} scan -q -j {count} '{_NEEDLE}' {listed} | grep -oE {_NEEDLE}"
        )
    times: dict[str, list[float]] = {name: [] for name in ways}
    answers = {}
    for _ in range(plan.repeat):
        for name, script in ways.items():
            discard(cache)
            warm([images])
            found = _Answer(script)
            times[name].append(seconds(found.ask))
            answers[name] = found.needles
    if len(set(answers.values())) != 1:
        raise BenchError(f"scan: the ways found different things: {answers}")
    first = median(next(iter(times.values())))
    for name, measured in times.items():
        say(f"scan: {name}: {median(measured):.2f} s, {median(measured) / first:.2f} times")
    plan.space.keep("scan", {"machine": machine(), "times": {"": times}})


class _Answer:
    """What a script finds: needles, each once."""

    def __init__(self, script: str) -> None:
        self._script = script
        self.needles: tuple[str, ...] = ()

    def ask(self) -> None:
        """Run the script."""
        done = subprocess.run(["sh", "-c", self._script], stdout=subprocess.PIPE, check=True)
        self.needles = tuple(sorted(set(done.stdout.decode().split())))


def _fleet(folder: Path) -> None:
    """Write the images' archives, with a needle in each layer."""
    folder.mkdir()
    base = []
    for number in range(4):
        path = folder / f"base-{number}.layer"
        _layer(path, number)
        base.append((path, f"RUN base {number}"))
    for number in range(_IMAGES):
        own = folder / "own.layer"
        _layer(own, 100 + number)
        archives.save(folder / f"{number:02}.tar", f"app:{number}", [*base, (own, "COPY own")])
        own.unlink()
    for path, _ in base:
        path.unlink()


def _layer(path: Path, number: int) -> None:
    """Write a layer of some thousand files of words, one of which holds a needle."""
    chosen = random.Random(number)
    with path.open("wb") as out:
        write = out.write
        for at in range(_FILES):
            words = b" ".join(chosen.choices(_WORDS, k=_BYTES // 9)) + b"\n"
            if at == number % _FILES:
                words += b"NEEDLE-%d\n" % number
            write(archives.header(f"d{number}/{at % 50}/file-{at}", b"0", 0o644, len(words)))
            write(words + bytes(-len(words) % 512))
        write(bytes(1024))
