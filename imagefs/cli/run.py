"""`imagefs run`: a command of an image, in namespaces of its own."""

import os
import stat
import sys
from pathlib import Path
from typing import Any

import click

from imagefs.cli.options import completed, source_argument, source_options
from imagefs.cli.progress_bars import reporter
from imagefs.errors import ImagefsError, RunError, UsageError
from imagefs.image import runtime
from imagefs.image.options import SourceOptions
from imagefs.overlay import stack
from imagefs.overlay.kept import take_up
from imagefs.progress import Progress
from imagefs.run import container, idmap, launch, users
from imagefs.run.container import Asked
from imagefs.run.idmap import IdMap
from imagefs.run.inside import Plan
from imagefs.run.users import User
from imagefs.source.opening import SourceRequest
from imagefs.store.store import Store
from imagefs.tree.opening import open_tree
from imagefs.tree.tree import Tree
from imagefs.vfs.owned import owned

_MOST_OF_PASSWD = 4 << 20


@click.command(
    context_settings={"allow_interspersed_args": False},
    short_help="Run a command of an image.",
)
@source_argument
@click.argument("command", nargs=-1, metavar="[COMMAND [ARG...]]", type=click.UNPROCESSED)
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable.")
@click.option("-w", "--workdir", "working_dir", metavar="PATH", help="Begin in this directory.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Run as this user of the image.")
@click.option("--entrypoint", metavar="COMMAND", help="Run this in place of the image's.")
@click.option(
    "-v", "--volume", "volumes", multiple=True, metavar="HOST:PATH[:ro]", help="Show a path here."
)
@click.option("--read-only", is_flag=True, help="Let nothing be written to the root.")
@click.option(
    "--keep",
    type=Path,
    metavar="DIR",
    help="Keep what is written, and go on from there.",
    **completed("directories"),
)
@click.option(
    "--network",
    type=click.Choice(["host", "none"]),
    default="host",
    show_default=True,
    help="Share the host's network, or have none.",
)
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", "terminal", is_flag=True, help="Give it a terminal; passes input on.")
@source_options
def run(
    source: str,
    options: SourceOptions,
    *,
    user: str | None,
    network: str,
    volumes: tuple[str, ...],
    keep: Path | None,
    interactive: bool,
    terminal: bool,
    quiet: bool,
    **said: Any,
) -> int:
    """Run a command of an image, or the image's own, with the image as its root.

    What it writes is gone when it ends, unless --keep says where to keep it.
    """
    try:
        if source == "-" and (interactive or terminal):
            raise UsageError("standard input is the archive: the command cannot have it too")
        launch.engine()
        asked = Asked(
            network=network == "host",
            interactive=interactive or terminal,
            terminal=_terminal_size() if terminal else None,
            volumes=tuple(map(container.volume, volumes)),
            **said,
        )
        return _run(SourceRequest(source, options), asked, user, keep, quiet=quiet)
    except RunError:
        raise
    except ImagefsError as error:
        raise RunError(str(error)) from error


def _terminal_size() -> os.terminal_size:
    try:
        return os.get_terminal_size(sys.stdin.fileno())
    except (OSError, ValueError) as error:
        raise UsageError("-t needs a terminal on standard input") from error


def _run(
    request: SourceRequest, asked: Asked, user: str | None, keep: Path | None, *, quiet: bool
) -> int:
    store = Store()
    ids = idmap.of_caller()
    with reporter(quiet=quiet) as progress:
        tree = open_tree(request, "rootfs", progress)
        config = runtime.parse(tree.image.config)
        who = _user(tree, config.user if user is None else user)
        who = _known(who, ids, progress, chosen=user is not None)
    terminals = ids.has(0, container.TTY_GROUP)
    box = container.container(config, asked, who, request.text, os.environ, tty_group=terminals)
    way = stack.TRUSTED if ids.everybody else stack.USER
    layers = [layer.diff_id for layer in tree.image.layers]
    kept = take_up(keep, layers, way) if keep is not None else None
    written = kept.path if kept is not None else None
    plan = Plan(box, request.text, store.work_dir, ids, way, written)
    tree.fs.show_only(tree.view)
    # Where there is nobody but root, all files are root's.
    fs = owned(tree.fs, 0, 0) if ids.root_alone else tree.fs
    return launch.launch(fs, plan)


def _user(tree: Tree, words: str) -> User:
    passwd, group = (_content(tree, path) for path in ("/etc/passwd", "/etc/group"))
    return users.resolve(words, passwd, group)


def _content(tree: Tree, path: str) -> bytes:
    """Return what a file of the image holds, if it is one."""
    try:
        if not stat.S_ISREG(tree.stat(path).mode):
            return b""
        with tree.open(path) as file:
            return file.read(_MOST_OF_PASSWD)
    except OSError:
        return b""


def _known(who: User, ids: IdMap, progress: Progress, *, chosen: bool) -> User:
    """Return a user that the namespace has; root where there is nobody else and nobody chose."""
    if ids.root_alone:
        progress.note(
            f"{idmap.SUBUID} and {idmap.SUBGID} give you no ids: all files are shown as root's"
        )
    if ids.has(who.uid, who.gid):
        groups = tuple(group for group in who.groups if ids.has(0, group))
        return User(who.uid, who.gid, groups, who.home)
    if ids.root_alone and not chosen:
        return User(0, 0, (), who.home)
    raise UsageError(
        f"uid {who.uid}, gid {who.gid}: there is none such in the user namespace; give your user"
        f" more ids in {idmap.SUBUID} and {idmap.SUBGID}"
    )
