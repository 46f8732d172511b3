"""What a directory shows, as rows: for who writes trees down, and wants no attributes of each name.

Owns which node each name leads to, as `ImageFs.listdir` has it. Any thread may call it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from imagefs.filesystem import NAME_MAX
from imagefs.index import rows
from imagefs.index.reader import Index
from imagefs.index.rows import Row
from imagefs.vfs import nodeid
from imagefs.vfs.merge import S_IFDIR, Place, Visible
from imagefs.vfs.view import View


class Listed(NamedTuple):
    """Some entries of a directory, sorted by name, as columns of one length.

    A node is without the view if it is a directory's, which is that of the directory it lies in.
    The row is the one that a node's number leads to: of a directory its topmost, else the inode's.
    """

    names: list[bytes]
    nodes: Sequence[int]
    rows: list[tuple[int, ...]]


def of_layer(view: View, place: Place, index: Index, first: int, end: int) -> Listed:
    """Return some entries of a directory that shows one layer only, by their place in it."""
    layer, number = place
    directory = index.row(number)
    names, table = index.table(directory, first, end)
    begin = layer << nodeid.LAYER_SHIFT | directory.data + first
    nodes = range(begin, begin + len(names))
    if _are_plain(view, table):
        return Listed(names, nodes, table)
    return _each(view, zip(names, nodes, table, strict=True))


def of_listing(view: View, entries: Sequence[Visible]) -> Listed:
    """Return the entries of a listing, as a view shows them."""
    names = [name for name, _, _, _ in entries]
    nodes = [layer << nodeid.LAYER_SHIFT | at for _, layer, at, _ in entries]
    table = [row for _, _, _, row in entries]
    if _are_plain(view, table):
        return Listed(names, nodes, table)
    return _each(view, zip(names, nodes, table, strict=True))


def _are_plain(view: View, table: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether all rows are shown, as the inodes that they are, by names that Linux takes."""
    odd = rows.FOREIGN | (rows.HIDDEN if view.merged else 0)
    return not view.has_links and not [
        row for row in table if row[2] & odd or row[6] != 1 or row[1] > NAME_MAX
    ]


def _each(view: View, entries: Iterable[tuple[bytes, int, tuple[int, ...]]]) -> Listed:
    """Return entries that have a name, a row, and its node, each as a view shows it."""
    hidden = rows.HIDDEN if view.merged else 0
    linked = view.has_links
    names: list[bytes] = []
    nodes: list[int] = []
    inodes: list[tuple[int, ...]] = []
    for name, place, row in entries:
        if row[2] & hidden or len(name) > NAME_MAX:
            continue
        node, said = place, row
        if row[3] >> 12 != S_IFDIR and (row[6] != 1 or row[2] & rows.FOREIGN or linked):
            _, layer, number = nodeid.unpack(place)
            count, (layer, number), said = view.inode((layer, number), Row._make(row))
            node = nodeid.pack(count, layer, number)
        names.append(name)
        nodes.append(node)
        inodes.append(said)
    return Listed(names, nodes, inodes)
