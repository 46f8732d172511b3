"""The commands as a whole: how they are listed, and what becomes of one that loses its reader."""

import os
import subprocess
import sys

import click
import pytest

from imagefs.cli.main import cli

CONTEXT = click.Context(cli)


@pytest.mark.parametrize("name", cli.list_commands(CONTEXT))
def test_the_list_says_what_each_command_says_of_itself(name: str) -> None:
    """The help lists commands without loading them, so that its words stand twice."""
    command = cli.get_command(CONTEXT, name)
    assert command is not None
    assert command.name == name
    listed = cli.get_help(CONTEXT).split("Commands:")[1].split(f"\n  {name} ")[1].split("\n")[0]
    assert listed.strip() == command.get_short_help_str(200)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["mount", "--help"], ["mounts"], ["cache", "list"]],
    ids=" ".join,
)
def test_a_command_may_lose_its_reader(words: list[str]) -> None:
    """Whoever has seen enough makes no error, be it text that click prints, or a table."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "imagefs", *words],
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
