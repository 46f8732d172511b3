"""What there is to say of each layer: for `imagefs layers` and for layers.txt.

Values in, values out; how they are printed is the command line's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from imagefs.image.model import Image
from imagefs.index.reader import Index
from imagefs.text import printable


class LayerSummary(NamedTuple):
    """A layer in numbers: content in bytes, names that are no whiteouts, whiteouts, notes."""

    directory: str
    diff_id: str
    size: int
    files: int
    whiteouts: int
    created_by: str
    notes: tuple[str, ...]


def summaries(image: Image, indexes: Sequence[Index]) -> list[LayerSummary]:
    """Return one summary a layer, bottom to top; `indexes` are the layers'."""
    return [
        LayerSummary(
            directory=name,
            diff_id=layer.diff_id,
            size=index.content_bytes,
            files=index.count - 1 - index.whiteouts,
            whiteouts=index.whiteouts,
            created_by=layer.created_by,
            notes=(*filter(None, (layer.damage,)), *index.notes()),
        )
        for name, layer, index in zip(image.layer_names(), image.layers, indexes, strict=True)
    ]


def text(image: Image, indexes: Sequence[Index]) -> bytes:
    """Return layers.txt: a line a layer, columns parted by tabs, then its notes."""
    lines = ["directory\tbytes\tfiles\twhiteouts\tcreated_by"]
    for one in summaries(image, indexes):
        created_by = printable(one.created_by)
        lines.append(f"{one.directory}\t{one.size}\t{one.files}\t{one.whiteouts}\t{created_by}")
        lines += [f"# {one.directory}: {printable(note)}" for note in one.notes]
    return "\n".join([*lines, ""]).encode("utf-8", "backslashreplace")
