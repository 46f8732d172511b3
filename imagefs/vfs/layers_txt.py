"""What there is to say of each layer: for `imagefs layers` and for layers.txt.

Values in, values out; how they are printed is the command line's.
"""

from collections.abc import Iterator
from typing import NamedTuple

from imagefs.image.model import Image
from imagefs.index.reader import Index
from imagefs.text import printable
from imagefs.vfs.links import Links, Lost


class LayerSummary(NamedTuple):
    """A layer in numbers: content in bytes, names that are no whiteouts, whiteouts, notes.

    What only the layer itself tells is None where it is not here yet.
    """

    directory: str
    diff_id: str
    size: int | None
    files: int | None
    whiteouts: int | None
    created_by: str
    notes: tuple[str, ...]


def summaries(image: Image, links: Links) -> list[LayerSummary]:
    """Return one summary a layer, bottom to top; `links` are those of its pile of layers."""
    pile, lost = links.pile, links.lost()
    layers = zip(image.layer_names(), image.layers, pile.layers, strict=True)
    return [
        LayerSummary(
            directory=name,
            diff_id=layer.diff_id,
            size=index.content_bytes,
            files=index.count - 1 - index.whiteouts,
            whiteouts=index.whiteouts,
            created_by=layer.created_by,
            notes=(*filter(None, (layer.damage,)), *index.notes(), *_lost(index, lost.get(number))),
        )
        for name, layer, number in layers
        for index in (pile.indexes[number],)
    ]


def _lost(index: Index, links: Lost | None) -> Iterator[str]:
    """Yield a note on hard links to nothing, if there are any."""
    if links is not None:
        name = path_of(index, links.first).decode("utf-8", "backslashreplace")
        if links.number == 1:
            yield f"no layer holds what hard link {name!r} leads to: it cannot be read"
        else:
            yield (
                f"no layer holds what hard link {name!r} and {links.number - 1} more lead to:"
                " they cannot be read"
            )


def path_of(index: Index, number: int) -> bytes:
    """Return where in a layer a row's name is."""
    names: list[bytes] = []
    while number:
        row = index.row(number)
        names.append(index.name(row))
        number = row.parent
    return b"/".join(reversed(names))


def text(image: Image, links: Links) -> bytes:
    """Return layers.txt: a line a layer, columns parted by tabs, then its notes."""
    lines = ["directory\tbytes\tfiles\twhiteouts\tcreated_by"]
    for one in summaries(image, links):
        created_by = printable(one.created_by)
        lines.append(f"{one.directory}\t{one.size}\t{one.files}\t{one.whiteouts}\t{created_by}")
        lines += [f"# {one.directory}: {printable(note)}" for note in one.notes]
    return "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")
