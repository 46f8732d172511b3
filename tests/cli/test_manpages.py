"""The manual pages: what the commands' help says now, in a form that man(1) takes."""

import os
import subprocess
from pathlib import Path

import pytest

from scripts.man import pages as manual
from tests.support.needs import need_tool

MAN = Path(manual.__file__).parent
PAGES = manual.pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_the_help_says(name: str) -> None:
    """`./scripts/manpages` writes it anew."""
    assert (MAN / name).read_text() == PAGES[name]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed(name: str) -> None:
    """man(1) warns of nothing, and shows every line of it."""
    man = need_tool("man", "man-db")
    done = subprocess.run(
        [man, "--warnings", "--encoding=UTF-8", "--local-file", MAN / name],
        env=os.environ | {"MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"SEE ALSO" in done.stdout


def test_the_pages_know_every_option() -> None:
    """Commands and options of all of them are there, with what they mean."""
    page = PAGES["imagefs.1"].replace("\\-", "-")
    for words in ("cache prune", "--keep-bytes SIZE", "--driver [", "-h, --help", "130"):
        assert words in page
