"""The README and the pages beside the code are part of the product: what they show works."""

import ast
import errno
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
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
MANUAL = {name: (ROOT / name).read_text() for name in PAGES if name != "CHANGELOG.md"}
# Options that the pages show of other programs.
FOREIGN = {
    *("--time", "--device", "--cap-add", "--strict", "--rm", "--cgroup-manager"),
    *("--quick", "--publish"),
}


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
    code
    for page in MANUAL.values()
    for code in (
        *re.findall(r"```(?:console|ini)\n(.*?)```", page, re.DOTALL),
        *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL)),
    )
]
CALLS = sorted(
    {
        call.strip()
        for code in CODE
        for call in re.findall(r"(?:^|[ $/#])imagefs ([a-z].*?)(?:\||&|#|$)", code, re.MULTILINE)
    }
)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_shown(name: str) -> None:
    """A command that the README does not show, nobody finds."""
    assert f"`imagefs {name}" in README


def test_calls_are_found() -> None:
    """The pattern that finds calls in the pages finds some."""
    assert len(CALLS) > 2 * len(COMMANDS)


@pytest.mark.parametrize("call", CALLS)
def test_each_call_is_possible(call: str) -> None:
    """Commands of the pages exist, and have the options that these give them."""
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


@pytest.mark.parametrize(
    ("name", "meant"),
    [("README.md", "allow_other"), ("imagefs/mounts/README.md", "kernel")],
)
def test_the_line_of_fstab_is_understood(name: str, meant: str) -> None:
    """mount(8) passes it on, and it means what `imagefs mount` takes."""
    line = r"^    (/\S+) +(/\S+) +fuse\.imagefs +(\S+) +0 0$"
    found = re.search(line, MANUAL[name], re.MULTILINE)
    assert found is not None
    source, place, options = found.groups()
    _, *words = mount_helper.words([source, place, "-o", options])
    params = COMMANDS["mount"].make_context("mount", words).params
    assert params["view"] == "rootfs"
    assert params["allow_other"] == (meant == "allow_other")
    assert params["driver"] == (meant if meant == "kernel" else None)


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


@pytest.mark.parametrize("name", [name for name in MANUAL if name.startswith("imagefs/")])
def test_modules_that_a_page_names_exist(name: str) -> None:
    """Beside the page, or by their path in the package."""
    for module in re.findall(r"`([\w./]+\.py)`", MANUAL[name]):
        places = ((ROOT / name).parent / module, ROOT / "imagefs" / module, ROOT / module)
        assert any(place.exists() for place in places), module


@pytest.mark.parametrize("walk", ["From a SOURCE to its mount", "From a READ to its bytes"])
def test_a_walk_names_each_module_once(walk: str) -> None:
    """Who follows it through the code never goes back."""
    text = MANUAL["imagefs/README.md"].partition(f"## {walk}\n")[2].partition("\n## ")[0]
    named = re.findall(r"`(\w+/\w+)\.py`", text)
    assert len(named) == len(set(named)) > 5


def test_links_of_the_long_description_are_absolute() -> None:
    """What package indexes show of the README leads somewhere from there, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = README
    for rule in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) == len(re.findall(r"\]\(", README))
    assert [link for link in links if not link.startswith("https://")] == []


def test_scripts_exist() -> None:
    """Every script that a page names is there and can be run; those who take part see all."""
    there = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file()}
    runnable = {name for name in there if os.access(ROOT / "scripts" / name, os.X_OK)}
    script = re.compile(r"(?<!\.)\./scripts/(\w+)")
    named = {name: set(script.findall(page)) for name, page in MANUAL.items()}
    assert named[".github/CONTRIBUTING.md"] == runnable
    assert set().union(*named.values()) == runnable


def said() -> set[str]:
    """All that imagefs says, and what the kernel says of mounts; what is filled in is NAME."""
    texts = {os.strerror(number) for number in (errno.EACCES, errno.EIO, errno.ENOTCONN)}
    for path in (ROOT / "imagefs").rglob("*.py"):
        module = ast.parse(path.read_text())
        known = constants(module)
        for node in ast.walk(module):
            if isinstance(node, ast.JoinedStr):
                texts.add("".join(filled(part, known) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
    return texts


def constants(module: ast.Module) -> dict[str, str]:
    """The texts and paths that a module has names for."""
    found = re.finditer(r"^(\w+) = (?:Path\()?'([^']+)'\)?$", ast.unparse(module), re.MULTILINE)
    return {one[1]: one[2] for one in found}


def filled(part: ast.expr, known: Mapping[str, str]) -> str:
    if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
        return known.get(part.value.id, "NAME")
    return str(part.value) if isinstance(part, ast.Constant) else "NAME"


def test_what_is_explained_is_said() -> None:
    """Errors whose meaning the pages tell are those that imagefs says, or the kernel."""
    rows = [
        row
        for page in MANUAL.values()
        for table in re.findall(r"^\| You see \|.*\n\|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
        for row in table.splitlines()
    ]
    explained = [word for row in rows for word in re.findall("`([^`]+)`", row.split("|")[1])]
    assert len(explained) == len(rows) - 1  # of one the sign is that nothing is said
    texts = said()
    assert [words for words in explained if not any(words in text for text in texts)] == []


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
