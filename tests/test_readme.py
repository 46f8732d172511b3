"""The README is part of the product: what it shows works, and what works it shows."""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from imagefs.cli import mount_helper
from imagefs.cli.main import cli
from scripts.demo_image import archive
from tests.support import users
from tests.support.needs import need_fuse

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") and part != ".github" for part in path.relative_to(ROOT).parts)
)
# Options that the README shows of other programs.
FOREIGN = {"--only-values", "--time", "--device", "--cap-add", "--strict"}


def commands(group: click.Group = cli, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands, by their words behind `imagefs`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


COMMANDS = dict(commands())


def options_of(command: click.Command) -> set[str]:
    return {"--help", *(word for option in command.params for word in option.opts)}


OPTIONS = {word for command in COMMANDS.values() for word in options_of(command)}
OPTIONS |= options_of(cli)
CODE = [
    *re.findall(r"```(?:console|ini)\n(.*?)```", README, re.DOTALL),
    *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL)),
]
CALLS = [
    call
    for code in CODE
    for call in re.findall(r"(?:^|[ $/])imagefs ([a-z].*?)(?:\||&|$)", code, re.MULTILINE)
]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_shown(name: str) -> None:
    """A command that the README does not show, nobody finds."""
    assert f"`imagefs {name}" in README


def test_calls_are_found() -> None:
    """The pattern that finds calls in the README finds some."""
    assert len(CALLS) > len(COMMANDS)


@pytest.mark.parametrize("call", CALLS)
def test_each_call_is_possible(call: str) -> None:
    """Commands of the README exist, and have the options that it gives them."""
    words = shlex.split(call)
    name = " ".join(words[:2]) if words[0] == "cache" else words[0]
    assert name in COMMANDS
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= options_of(COMMANDS[name])


def test_each_option_exists() -> None:
    """Every option in code is one of imagefs's, or known to be of another program."""
    used = {word for code in CODE for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)}
    assert used - FOREIGN <= OPTIONS
    assert used >= FOREIGN


def test_the_line_of_fstab_is_understood() -> None:
    """mount(8) passes it on, and it means what `imagefs mount` takes."""
    found = re.search(r"^    (/\S+) +(/\S+) +fuse\.imagefs +(\S+) +0 0$", README, re.MULTILINE)
    assert found is not None
    source, place, options = found.groups()
    _, *words = mount_helper.words([source, place, "-o", options])
    context = COMMANDS["mount"].make_context("mount", words)
    assert context.params["view"] == "rootfs"
    assert context.params["allow_other"]


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w -]", "", words).lower().replace(" ", "-")
        for words in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    }


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    """Links of every page reach a file, and a heading where they name one."""
    page = ROOT / name
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in link:
            path, _, heading = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not heading or heading in headings(target), link


def test_scripts_exist() -> None:
    """Every script that the README names is there and can be run, and there is no other."""
    there = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file()}
    runnable = {name for name in there if os.access(ROOT / "scripts" / name, os.X_OK)}
    assert set(re.findall(r"\./scripts/(\w+)", README)) == runnable


def test_the_tour_shows_what_the_readme_says(tmp_path: Path) -> None:
    """The commands of the tour print, word by word, what stands below them."""
    need_fuse()
    tour = re.search(r"<!-- demo -->\n```console\n(.*?)```", README, re.DOTALL)
    assert tour is not None
    with users.caller(tmp_path / "home") as user:
        (user.home / "shop.tar").write_bytes(archive())
        user.directory("mnt")
        imagefs = shlex.join(map(str, user.command()))
        shown = re.findall(r"^\$ (.*)$", tour[1], re.MULTILINE)
        steps = "".join(f"echo {shlex.quote(f'$ {words}')}; {words}\n" for words in shown)
        script = f'imagefs() {{ {imagefs} "$@" 2>&3; }}\nexec 3>&2 2>&1\n{steps}'
        printed = user.run("sh", "-c", script).out
    assert lines(printed) == lines(tour[1])


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]
