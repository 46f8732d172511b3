"""The suite `start`: what a command takes to start, and the imports that take the most of it.

CPU seconds, the best of many: how long the wall's clock goes on depends on who else is at work.
"""

import re
import resource
import sys
from collections.abc import Callable

import demo_image

from benchmarks.host import call, machine, say
from benchmarks.plan import Plan

_IMPORT = re.compile(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", re.MULTILINE)
_SHOWN = 8
"""Imports that are named."""


def run(plan: Plan) -> None:
    """Measure `python -c pass`, `imagefs --version` and `imagefs mount` of an indexed image."""
    space = plan.space.directory("start")
    archive, mountpoint = space / "shop.tar", space / "mnt"
    archive.write_bytes(demo_image.archive())
    mountpoint.mkdir(exist_ok=True)
    ours = str(plan.programs.imagefs)
    # Bytecode is kept, as an installer keeps it.
    env = {"IMAGEFS_CACHE": str(space / "cache"), "PYTHONDONTWRITEBYTECODE": ""}

    def unmount() -> None:
        call([ours, "unmount", mountpoint], env=env)

    call([ours, "mount", archive, mountpoint], env=env)
    unmount()
    commands: dict[str, tuple[list[str], Callable[[], None]]] = {
        "python -c pass": (["-c", "pass"], lambda: None),
        "imagefs --version": ([ours, "--version"], lambda: None),
        "imagefs mount": ([ours, "mount", str(archive), str(mountpoint)], unmount),
    }
    times: dict[str, float] = {}
    for name, (words, after) in commands.items():
        times[name], imports = _best([sys.executable, *words], env, after, 2 * plan.repeat)
        most = sorted(imports.items(), key=lambda one: -one[1])[:_SHOWN]
        say(
            f"start: {name} {times[name] * 1000:.0f} ms; {len(imports)} imports"
            f" {sum(imports.values()) / 1000:.1f} ms:"
            f" {', '.join(f'{module} {took / 1000:.1f}' for module, took in most)}"
        )
    plan.space.keep("start", {"machine": machine(), "times": {"": times}})


def _best(
    command: list[str], env: dict[str, str], after: Callable[[], None], repeat: int
) -> tuple[float, dict[str, int]]:
    """Return the least CPU seconds of a command, and the least microseconds of each import."""
    least, imports = float("inf"), dict[str, int]()
    for _ in range(repeat):
        before = _children()
        call(command, env=env)
        least = min(least, _children() - before)
        after()
        program, *words = command
        told = call(
            ["sh", "-c", 'exec "$@" 2>&1', "sh", program, "-X", "importtime", *words], env=env
        )
        for took, module in _IMPORT.findall(told):
            imports[module] = min(imports.get(module, sys.maxsize), int(took))
        after()
    return least, imports


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
