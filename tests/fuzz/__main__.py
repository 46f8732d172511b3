"""Run one target, guided by coverage: python -m tests.fuzz TARGET [libFuzzer's arguments]."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import atheris


def main(name: str, arguments: Sequence[str]) -> None:
    """Fuzz until libFuzzer's limits, or until a promise is broken; the input is then kept."""
    with atheris.instrument_imports(include=["imagefs"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds()):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *arguments, corpus], target.check)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
