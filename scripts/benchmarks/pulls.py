"""The suite `pull`: an image of 1 GB in gzip out of a registry, until its root is listed.

Compares wall times within one run with `skopeo copy docker:// dir:`, which keeps the layers as they
are packed, and with `podman pull`, which unpacks them. Tells the processors' time too, which says
more on a busy machine.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.host import BenchError, call, find_program, say
from benchmarks.plan import Plan
from benchmarks.transfers import Turn, in_turn, tell_and_keep
from benchmarks.workspace import discard

COPY, PULL = "skopeo copy docker:// dir:", "imagefs mount, ls"
_PATIENCE = 60
_CACHES = ("skopeo", "podman", "podman-run", "pull-cache")


def run(plan: Plan) -> None:
    """Time a pull and the first listing of the root, each side with nothing to begin with."""
    server, skopeo = find_program("docker-registry"), find_program("skopeo")
    if not server or not skopeo:
        say("pull: left out: apt install docker-registry skopeo")
        return
    data = plan.space.directory("registry")
    with _registry(server, data) as place:
        source = f"docker://{place}/bench/{plan.image}:v1"
        pushed = data / f"{plan.image}.pushed"
        if not pushed.exists():
            copy = [skopeo, "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
            call([*copy, f"docker-archive:{plan.archive}", source])
            pushed.touch()
        spent: dict[str, list[float]] = {}
        sides = {name: _counted(turn, name, spent) for name, turn in _sides(plan, source).items()}
        made = [plan.space.root / name for name in _CACHES]
        for path in made:
            discard(path)
        times = in_turn(sides, [data / "docker"], made, plan.repeat)
    for name, values in spent.items():
        say(f"pull: {name}: {median(values):.2f} s of processors' time")
    tell_and_keep(plan.space, "pull", {"": times})


def _sides(plan: Plan, source: str) -> dict[str, Turn]:
    root, imagefs = plan.space.root, plan.programs.imagefs
    mountpoint = plan.space.directory("mnt")
    packed, storage, running, cache = (root / name for name in _CACHES)
    env = {"IMAGEFS_CACHE": str(cache)}

    def ours() -> None:
        call([imagefs, "mount", "--quiet", source, mountpoint], env=env)
        os.listdir(mountpoint / "rootfs")

    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]
    sides = {COPY: Turn(lambda: call([*copy, source, f"dir:{packed}"]))}
    if find_program("podman"):
        podman: list[str | Path] = ["podman", f"--root={storage}", f"--runroot={running}"]
        pull = [*podman, "pull", "--quiet", "--tls-verify=false", source]
        # Only podman may remove what it has mounted.
        sides["podman pull"] = Turn(lambda: call(pull), lambda: call([*podman, "rmi", "--all"]))
    unmount: list[str | Path] = [imagefs, "unmount", mountpoint]
    return {**sides, PULL: Turn(ours, lambda: call(unmount))}


def _counted(turn: Turn, name: str, spent: dict[str, list[float]]) -> Turn:
    """Return the same turn, which notes the processors' time of the programs that it runs."""
    return Turn(_noting(turn.work, spent.setdefault(name, [])), turn.end)


def _noting(work: Callable[[], object], spent: list[float]) -> Callable[[], None]:
    def noted() -> None:
        before = os.times()
        work()
        after = os.times()
        own = after.children_user - before.children_user
        spent.append(own + after.children_system - before.children_system)

    return noted


@contextmanager
def _registry(server: str, data: Path) -> Iterator[str]:
    """Run a registry of our own; yield its HOST:PORT."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        place = f"localhost:{one.getsockname()[1]}"
    config = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(data)}},
        "http": {"addr": place},
    }
    with tempfile.TemporaryDirectory(prefix="bench-registry-") as state:
        path = Path(state) / "config.yml"
        path.write_text(json.dumps(config))  # JSON is YAML
        with open(Path(state) / "log", "wb") as log:
            process = subprocess.Popen(
                [server, "serve", path], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            _await(process, place)
            yield place
        finally:
            process.terminate()
            process.wait()


def _await(process: subprocess.Popen[bytes], place: str) -> None:
    host, _, port = place.partition(":")
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise BenchError("docker-registry does not start") from error
        time.sleep(0.1)
