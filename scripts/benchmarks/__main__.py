"""`./scripts/bench`: choose suites, contestants and repetitions, and run them."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    agreement,
    analysis,
    archives,
    hostile,
    looking,
    pulls,
    readiness,
    reading,
    report,
    running,
    scanning,
    starting,
    transfers,
)
from benchmarks.contestants import Contestant, Programs, own_imagefs
from benchmarks.host import BenchError, call, say
from benchmarks.peers import EVERYBODY
from benchmarks.plan import Plan
from benchmarks.workspace import Workspace

SUITES: dict[str, tuple[str, Callable[[Plan], None]]] = {
    "agree": ("tools see in the mount what they see in the extracted tree", agreement.run),
    "ready": ("indexing, first and second mount, memory", readiness.run),
    "read": ("find, grep, tar and the like on everybody's mount", reading.run),
    "fetch": ("imagefs fetch beside docker save -o", transfers.fetch),
    "unpack": ("first mount of gzip and zstd archives beside pigz and zstd", transfers.decompress),
    "pull": ("pull and first listing beside skopeo copy and podman pull", pulls.run),
    "look": ("ls, cat, export and diff without a mount beside find, tar and diff", looking.run),
    "waste": ("what makes an image big: layers, waste and report, once indexed", analysis.run),
    "start": ("what commands take to start, and which imports", starting.run),
    "run": ("a command of a small image, beside podman run", running.run),
    "scan": (
        "a search of twenty images that share layers, beside the ways around it",
        scanning.run,
    ),
    "hostile": ("small archives that are made to cost much, mounted and listed", hostile.run),
    "report": ("tables and a chart of what the suites left", report.run),
}


def main() -> int:
    """Run the suites that were asked for; return the exit status."""
    parser = _parser()
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("only root can mount, unpack and drop caches")
    space = Workspace(options.work.absolute())
    programs = Programs(options.imagefs.absolute(), _environment(space))
    plan = Plan(
        space,
        programs,
        options.image.absolute() if options.image else archives.real(space),
        tuple(_taking_part(options.only, programs, space)),
        options.repeat or (2 if options.quick else 5),
        options.cold,
        tuple(options.rows or ()),
        options.publish,
    )
    try:
        for suite in options.suites or SUITES:
            say(f"== {suite}: {SUITES[suite][0]}")
            SUITES[suite][1](plan)
    except BenchError as error:
        say(f"bench: {error}")
        return 1
    return 0


def _environment(space: Workspace) -> Path:
    """Return the Python environment of the tools that are not ours, made if need be."""
    path = space.root / "env"
    made = path / "made"
    if not made.exists():
        say("bench: preparing an environment with ratarmount and matplotlib")
        try:
            call([sys.executable, "-m", "venv", "--clear", path])
            call([path / "bin" / "pip", "install", "--quiet", "ratarmount", "matplotlib"])
            made.touch()
        except BenchError as error:
            say(f"bench: {error}")
    return path


def _parser() -> argparse.ArgumentParser:
    suites = "\n".join(f"  {name:8} {about}" for name, (about, _) in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measure imagefs beside others, in one run.",
        epilog=f"suites, all of them by default:\n{suites}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suites", nargs="*", choices=[*SUITES, []], metavar="SUITE")
    parser.add_argument("--image", type=Path, help="archive of docker save, instead of our own")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "imagefs-bench",
        help="where images and results are kept (about 20 GB; default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="repeat less")
    parser.add_argument("--repeat", type=int, help="how often (default: 5)")
    parser.add_argument("--cold", action="store_true", help="drop all caches before each work")
    parser.add_argument("--only", type=_words, help="contestants, by parts of their names")
    parser.add_argument("--rows", type=_words, help="works of the suite read, by key")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="report into README.md beside the code and .github/ as well",
    )
    parser.add_argument(
        "--imagefs", type=Path, default=own_imagefs(), help="the program to measure"
    )
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _taking_part(
    only: Sequence[str] | None, programs: Programs, space: Workspace
) -> list[type[Contestant]]:
    taking_part = []
    for kind in EVERYBODY:
        if only and not any(word == kind.name or word in kind.name.split() for word in only):
            continue
        reason = kind(Path(), space.root, programs).missing()
        if reason:
            say(f"bench: without {kind.name}: {reason}")
        else:
            taking_part.append(kind)
    return taking_part


if __name__ == "__main__":
    sys.exit(main())
