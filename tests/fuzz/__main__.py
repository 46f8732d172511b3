"""Run one target, guided by coverage: python -m tests.fuzz TARGET [libFuzzer's arguments].

Inputs that reached something new are kept in `.fuzz` of the checkout: a run goes on where the
last one ended.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import atheris

with atheris.instrument_imports(include=["imagefs"]):
    from tests.fuzz.targets import TARGETS, folder

CORPUS = Path(__file__).parent.parent.parent / ".fuzz"


def main(name: str, arguments: Sequence[str]) -> int:
    """Fuzz until libFuzzer's limits, or until a promise is broken; the input is then kept.

    libFuzzer ends its process without a word to Python, so another one cleans up.
    """
    place = folder()
    child = os.fork()
    if not child:
        _fuzz(name, arguments)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        # What found something has cleaned up behind itself.
        shutil.rmtree(place, ignore_errors=True)


def _fuzz(name: str, arguments: Sequence[str]) -> NoReturn:
    target = TARGETS[name]
    corpus, seeds = CORPUS / name, folder() / "seeds"
    corpus.mkdir(parents=True, exist_ok=True)
    seeds.mkdir()
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    # New inputs go into the first of the directories.
    atheris.Setup([sys.argv[0], *arguments, str(corpus), str(seeds)], target.check)
    atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
