"""`imagefs diff`: what differs between two images, or what each layer of one did.

Owns how differences are printed, and the exit statuses of diff(1): 0 for none, 1 for some, 2 for
trouble.
"""

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from imagefs.cli import output
from imagefs.cli.look import described, named_errors
from imagefs.cli.options import completed, source_argument, source_options, view_option
from imagefs.cli.progress_bars import reporter
from imagefs.cli.trouble import trouble
from imagefs.errors import UsageError
from imagefs.filesystem import Attr, Entry
from imagefs.image.options import SourceOptions
from imagefs.source.opening import SourceRequest
from imagefs.text import printable
from imagefs.tree import unified
from imagefs.tree.compare import ADDED, ASPECTS, CHANGED, DELETED, Change, changes
from imagefs.tree.opening import open_tree, open_two
from imagefs.tree.tree import Origin, Tree

_WORDS = {ADDED: "added", CHANGED: "changed", DELETED: "deleted"}


def _aspects(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> list[str]:
    words = [word.strip() for one in given for word in one.split(",")]
    for word in words:
        if word not in ASPECTS:
            raise click.BadParameter(f"{word!r} is none of {', '.join(ASPECTS)}", param=option)
    return words


@click.command(short_help="Show what differs between two images, or what a layer did.")
@source_argument
@click.argument("other", required=False, **completed("sources"))
@click.option("--layers", "each", is_flag=True, help="Show what each layer of an image did.")
@click.option("--content", is_flag=True, help="Show how text differs, as diff -u does.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
@click.option(
    "--ignore",
    "ignored",
    multiple=True,
    callback=_aspects,
    metavar="WHAT,...",
    help=f"Overlook {', '.join(ASPECTS)}.",
)
@view_option
@source_options
def diff(
    source: str,
    other: str | None,
    view: str,
    options: SourceOptions,
    *,
    each: bool,
    content: bool,
    as_json: bool,
    ignored: list[str],
    quiet: bool,
) -> int:
    """Show what differs between two images; of one image, what its last layer did; at the mount
    point of a mount with --writable, what was written.

    A line a path: A for added, C for changed, D for deleted, then what differs, and the layer and
    step that did it. What was in a deleted directory is not listed. The exit status is 0 if nothing
    differs, 1 if something does, 2 if there is trouble.
    """
    if other is not None and each:
        raise UsageError("--layers is of one image")
    if as_json and content:
        raise UsageError("--content is for people, and --json for programs: choose")
    if other == source == "-":
        raise UsageError("standard input can be read once")
    if other is None:
        from imagefs.cli import changes as written  # noqa: PLC0415

        count = written.show_at(Path(source), as_json=as_json)
        if count is not None:
            return int(count > 0)
    show = _as_json if as_json else _with_content if content else _as_line
    request = SourceRequest(source, options)
    pairs: list[Pair]
    with trouble(), named_errors(source):
        with reporter(quiet=quiet) as progress:
            if other is not None:
                theirs = SourceRequest(other, options)
                pairs = [(None, *open_two(request, theirs, view, progress))]
            else:
                pairs = list(_steps(open_tree(request, view, progress), each=each))
        return _print(pairs, ignored, show, paged=content and sys.stdout.isatty())


Pair = tuple[Origin | None, Tree | None, Tree]
"""Two trees to compare, and the layer that lies between them if it is told in a heading."""


def _steps(tree: Tree, *, each: bool) -> Iterator[Pair]:
    """Yield what was there before a layer, and with it: of the last layer, or of each."""
    names = tree.snapshots()
    if not names and tree.layers:
        raise UsageError(f"--view {tree.view} has nothing below it: choose rootfs or snapshots/NN")
    before: Tree | None = None
    for number, name in enumerate(names):
        after = tree.at(f"snapshots/{name}")
        if each or number == len(names) - 1:
            yield tree.layer(name) if each else None, before, after
        before = after


Show = Callable[[Change, Tree | None, Tree, bool], Iterator[bytes]]


def _print(pairs: list[Pair], ignored: list[str], show: Show, *, paged: bool) -> int:
    """Print what differs; return the exit status."""
    found = 0

    def lines() -> Iterator[bytes]:
        nonlocal found
        for number, (layer, old, new) in enumerate(pairs):
            if layer is not None and show is not _as_json:
                yield b"\n" * bool(number) + _shown(f"{layer.layer}  {layer.step}") + b"\n"
            for change in changes(old, new, ignored):
                found = 1
                yield from show(change, old, new, layer is None)

    if paged:
        click.echo_via_pager(_tame(line) for line in lines())
    else:
        for line in lines():
            output.write_bytes(line)
        output.flush()
    return found


def _shown(text: str) -> bytes:
    return printable(text).encode(errors="backslashreplace")


def _tame(line: bytes) -> str:
    """Return a line for a terminal, which obeys nothing of it."""
    end = "\n" * line.endswith(b"\n")
    text = line.decode(errors="backslashreplace").removesuffix("\n")
    return "\n".join("\t".join(map(printable, part.split("\t"))) for part in text.split("\n")) + end


def _as_line(change: Change, old: Tree | None, new: Tree, by_layer: bool) -> Iterator[bytes]:
    """Yield the line of a change; the layer is in it unless a heading has told."""
    words = [f"{change.kind} /{printable(os.fsdecode(change.path))}"]
    if change.what or (by_layer and change.origin):
        words.append(",".join(change.what))
    if by_layer and change.origin:
        words.append(printable(f"{change.origin.layer} {change.origin.step}".rstrip()))
    yield "\t".join(words).encode(errors="backslashreplace") + b"\n"


def _as_json(change: Change, old: Tree | None, new: Tree, by_layer: bool) -> Iterator[bytes]:
    folder, _, name = change.path.rpartition(b"/")

    def side(tree: Tree | None, attr: Attr | None) -> object:
        return described(tree, folder, Entry(name, attr)) if tree and attr else None

    said = {
        "change": _WORDS[change.kind],
        "path": "/" + os.fsdecode(change.path),
        "what": change.what,
        "layer": change.origin.layer if change.origin else None,
        "step": change.origin.step if change.origin else None,
        "old": side(old, change.old),
        "new": side(new, change.new),
    }
    yield json.dumps(said).encode() + b"\n"


def _with_content(change: Change, old: Tree | None, new: Tree, by_layer: bool) -> Iterator[bytes]:
    """Yield the line, then how the text differs, of files that are regular before or after."""
    yield from _as_line(change, old, new, by_layer)
    if change.kind == CHANGED and not {"content", "type"} & set(change.what):
        return
    sides = [_text_of(old, change.old, change.path), _text_of(new, change.new, change.path)]
    if sides == [None, None]:
        return
    names = [
        b"/dev/null" if text is None else mark + change.path
        for text, mark in zip(sides, (b"a/", b"b/"), strict=True)
    ]
    if any(len(text or b"") > unified.MAX_BYTES for text in sides):
        yield b"Files %b and %b differ, and are too large to be shown\n" % tuple(names)
        return
    yield from unified.unified(sides[0] or b"", sides[1] or b"", names[0], names[1])


def _text_of(tree: Tree | None, attr: Attr | None, path: bytes) -> bytes | None:
    """Return a regular file's content, cut where it is too much to show; None if it has none."""
    if tree is None or attr is None or not stat.S_ISREG(attr.mode) or tree.fs.is_lost(attr.node):
        return None
    return tree.read(attr, 0, min(attr.size, unified.MAX_BYTES + 1), path)
