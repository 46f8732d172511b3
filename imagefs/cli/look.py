"""`imagefs ls` and `imagefs cat`: looking into an image without a mount.

Owns how entries are printed. Names of an image are shown escaped: a terminal obeys none of them.
"""

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from imagefs.cli import output
from imagefs.cli.options import completed, source_argument, source_options, view_option
from imagefs.cli.progress_bars import reporter
from imagefs.errors import PathError
from imagefs.filesystem import Attr, Entry
from imagefs.image.options import SourceOptions
from imagefs.source.opening import SourceRequest
from imagefs.text import printable
from imagefs.tree.opening import open_tree
from imagefs.tree.tree import Tree

_AT_ONCE = 1 << 20
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True)
class Style:
    """How `ls` lists: the meaning of ls(1)'s -l, -R and -a; or JSON, an object a line."""

    long: bool
    recursive: bool
    everything: bool
    as_json: bool


@contextmanager
def opened(request: SourceRequest, view: str, *, quiet: bool) -> Iterator[Tree]:
    """Open a source's view; what goes wrong with a path in it is one line."""
    with reporter(quiet=quiet) as progress:
        tree = open_tree(request, view, progress)
    with named_errors(request.text), tree:
        yield tree


@contextmanager
def named_errors(source: str) -> Iterator[None]:
    """Have what goes wrong with a path of an image be one line, which names the path."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename is not None else source
        raise PathError(f"{name}: {error.strerror or error}") from error


@click.command(short_help="List what is in an image, without a mount.")
@source_argument
@click.argument("paths", nargs=-1, metavar="[PATH]...", **completed("paths"))
@click.option("-l", "long", is_flag=True, help="Show mode, owner, size, time and link target.")
@click.option("-R", "recursive", is_flag=True, help="List directories with all below them.")
@click.option("-a", "everything", is_flag=True, help="List names that start with a dot, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
@view_option
@source_options
def ls(
    source: str,
    paths: tuple[str, ...],
    view: str,
    options: SourceOptions,
    *,
    quiet: bool,
    **style: bool,
) -> None:
    """List what is in an image, without a mount. Times are in UTC."""
    with opened(SourceRequest(source, options), view, quiet=quiet) as tree:
        _list(tree, paths, Style(**style))


def _list(tree: Tree, paths: Sequence[str], style: Style) -> None:
    """List what the paths lead to: files first, then directories with what they hold."""
    # All are looked up before anything is printed.
    found = [(path, _named_by_user(tree, path, style)) for path in paths or ("/",)]
    files = [(path, attr) for path, attr in found if not stat.S_ISDIR(attr.mode)]
    folders = [path for path, attr in found if stat.S_ISDIR(attr.mode)]
    _show(tree, b"", [Entry(os.fsencode(path), attr) for path, attr in files], style)
    blank = bool(files)
    for folder in folders:
        for walked in tree.walk(folder):
            if not style.everything and _is_below_hidden(walked.path, folder):
                continue
            if not style.as_json and (style.recursive or len(found) > 1):
                shown = printable(os.fsdecode(walked.path))
                output.write_text(f"{chr(10) * blank}/{shown}:\n")
                blank = True
            _show(tree, walked.path, _wanted(tree, walked.node, walked.entries, style), style)
            if not style.recursive:
                break


def _named_by_user(tree: Tree, path: str, style: Style) -> Attr:
    """As ls(1), see through a link that leads to a directory, unless told to show details."""
    attr = tree.stat(path, follow=False)
    if stat.S_ISLNK(attr.mode) and not style.long and not style.as_json:
        try:
            seen = tree.stat(path)
        except OSError:
            return attr
        return seen if stat.S_ISDIR(seen.mode) else attr
    return attr


def _is_below_hidden(path: bytes, folder: str) -> bool:
    top = os.fsencode(folder).strip(b"/")
    below = path[len(top) :]
    return below.startswith(b".") or b"/." in below


def _wanted(tree: Tree, node: int, entries: Sequence[Entry], style: Style) -> Iterator[Entry]:
    """Yield the entries that are listed; all of them include those for itself and above."""
    if not style.everything:
        yield from (entry for entry in entries if not entry.name.startswith(b"."))
        return
    if not style.as_json:
        yield Entry(b".", tree.fs.getattr(node))
        yield Entry(b"..", tree.parent(node))
    yield from entries


def _show(tree: Tree, folder: bytes, entries: Any, style: Style) -> None:
    write = output.write_text
    if style.as_json:
        for entry in entries:
            write(json.dumps(described(tree, folder, entry)) + "\n")
    elif style.long:
        for entry in entries:
            write(_long(tree, entry) + "\n")
    else:
        for entry in entries:
            write(printable(os.fsdecode(entry.name)) + "\n")


def described(tree: Tree, folder: bytes, entry: Entry) -> dict[str, Any]:
    """Return what JSON says of an entry; bytes that are no UTF-8 are surrogates, as os.fsdecode."""
    name, attr = entry
    above = folder.strip(b"/") + b"/" if folder.strip(b"/") else b""
    is_link = stat.S_ISLNK(attr.mode)
    origin = tree.node_origin(attr.node)
    return {
        "path": "/" + os.fsdecode(above + name.lstrip(b"/")),
        "name": os.fsdecode(name),
        "kind": _KINDS.get(stat.S_IFMT(attr.mode), "unknown"),
        "mode": f"{stat.S_IMODE(attr.mode):04o}",
        "uid": attr.uid,
        "gid": attr.gid,
        "size": _size(tree, attr),
        "mtime": attr.mtime + attr.mtimensec / 1e9 if attr.mtimensec else attr.mtime,
        "target": os.fsdecode(tree.fs.readlink(attr.node)) if is_link else None,
        "layer": origin.layer if origin else None,
    }


def _size(tree: Tree, attr: Attr) -> int:
    return len(tree.fs.readlink(attr.node)) if stat.S_ISLNK(attr.mode) else attr.size


def _long(tree: Tree, entry: Entry) -> str:
    attr = entry.attr
    size = str(_size(tree, attr))
    if stat.S_ISCHR(attr.mode) or stat.S_ISBLK(attr.mode):
        size = f"{os.major(attr.rdev)}, {os.minor(attr.rdev)}"
    name = printable(os.fsdecode(entry.name))
    if stat.S_ISLNK(attr.mode):
        name += " -> " + printable(os.fsdecode(tree.fs.readlink(attr.node)))
    mode = stat.filemode(attr.mode)
    return f"{mode} {attr.nlink:3} {attr.uid:5} {attr.gid:5} {size:>10} {_time(attr.mtime)} {name}"


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        # A tar may tell of times that no calendar of Python's reaches.
        return f"@{seconds}".ljust(19)


@click.command(short_help="Write files of an image to standard output.")
@source_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", **completed("paths"))
@view_option
@source_options
def cat(
    source: str, paths: tuple[str, ...], view: str, options: SourceOptions, *, quiet: bool
) -> None:
    """Write files of an image to standard output; links are followed inside the image."""
    with opened(SourceRequest(source, options), view, quiet=quiet) as tree:
        # All are found before the first is written.
        files = [tree.open(path) for path in paths]
        for file in files:
            while piece := file.raw.read(_AT_ONCE):
                output.write_bytes(piece)
