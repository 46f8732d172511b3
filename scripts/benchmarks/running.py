"""The suite `run`: from the command to its end, of a command that does nothing.

The image is busybox, indexed by imagefs and loaded by podman. Both share the host's network.
"""

import contextlib
import io
import tarfile
from pathlib import Path
from statistics import median

from benchmarks.host import BenchError, call, find_program, machine, say, seconds
from benchmarks.plan import Plan

_MOST = 0.5
"""Seconds that imagefs may take."""


def run(plan: Plan) -> None:
    """Time `imagefs run` beside `podman run --rm`, in turn."""
    busybox, podman = find_program("busybox"), find_program("podman")
    if not busybox or not find_program("crun"):
        say("run: left out: apt install busybox-static crun")
        return
    archive = plan.space.root / "busybox.tar"
    _pack(Path(busybox), archive)
    env = {"IMAGEFS_CACHE": str(plan.space.directory("run-cache"))}
    ours: list[str | Path] = [plan.programs.imagefs, "run", "--quiet", archive, "/bin/true"]
    commands = {"imagefs run": (ours, env)}
    if podman:
        where: list[str | Path] = [podman, "--root", plan.space.directory("run-podman")]
        image = call([*where, "import", "--quiet", archive]).strip()
        commands["podman run --rm"] = (_podman_run(where, image), {})
    for words, more in commands.values():
        call(words, env=more)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(2 * plan.repeat):
        for name, (words, more) in commands.items():
            times[name].append(seconds(lambda words=words, more=more: call(words, env=more)))
    for name, found in times.items():
        say(f"run: {name} {median(found):.2f} s")
    if median(times["imagefs run"]) > _MOST:
        say(f"run: imagefs run is to take {_MOST} s at most")
    plan.space.keep("run", {"machine": machine(), "times": {"": times}})


def _podman_run(podman: list[str | Path], image: str) -> list[str | Path]:
    """Return a command with the runtime that works here: not each takes cgroups of both kinds."""
    # By itself podman raises limits, which not every root may.
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
    for runtime in ("crun", "runc"):
        words = [*podman, f"--runtime={runtime}", "run", "--rm", "--network=host", *limits]
        with contextlib.suppress(BenchError):
            call([*words, image, "/bin/true"])
            break
    return [*words, image, "/bin/true"]


def _pack(busybox: Path, archive: Path) -> None:
    """Write the root of an image that has busybox alone."""
    content = busybox.read_bytes()
    with tarfile.open(archive, "w") as tar:
        for name in ("bin/busybox", "bin/true"):
            info = tarfile.TarInfo(name)
            info.mode, info.size = 0o755, len(content)
            if name != "bin/busybox":
                info.type, info.linkname, info.size = tarfile.LNKTYPE, "bin/busybox", 0
            tar.addfile(info, io.BytesIO(content))
