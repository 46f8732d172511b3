"""The suite `waste`: what makes the real image big, told and drawn, once it is indexed."""

import subprocess
from statistics import median

from benchmarks.host import machine, say, seconds, warm
from benchmarks.plan import Plan

COMMANDS = {
    "layers": ("layers",),
    "waste": ("waste",),
    "waste, with duplicates": ("waste", "--duplicates"),
    "report": ("report",),
}


def run(plan: Plan) -> None:
    """Time each command on the real image, and keep how large its page is."""
    cache = plan.space.directory("waste-cache")
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    sizes: dict[str, int] = {}

    def ask(name: str) -> None:
        words = ["env", f"IMAGEFS_CACHE={cache}", plan.programs.imagefs, *COMMANDS[name], "-q"]
        done = subprocess.run([*words, plan.archive], stdout=subprocess.PIPE, check=True)
        sizes[name] = len(done.stdout)

    ask("layers")
    warm([plan.archive])
    for _ in range(plan.repeat):
        for name in COMMANDS:
            times[name].append(seconds(lambda name=name: ask(name)))
    for name, measured in times.items():
        say(f"waste: {name}: {median(measured):.2f} s, {sizes[name]:,} bytes")
    plan.space.keep("waste", {"machine": machine(), "seconds": times, "bytes": sizes})
