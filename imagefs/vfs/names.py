"""How many names of a file show, in each snapshot of an image.

Owns the count that st_nlink gives. A name shows from its own layer on, until a layer hides it, and
never again. So a file's names are looked for once, in the whole image: one that shows there shows
in every snapshot from its layer on, and of the others the layer that hides them is found. May be
used by many threads.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator

from imagefs.filesystem import check_asker
from imagefs.index import rows
from imagefs.vfs import nodeid
from imagefs.vfs.chain import Chain, Spot
from imagefs.vfs.links import Links
from imagefs.vfs.memory import SMALL
from imagefs.vfs.merge import Place

MAX_COUNTED = 65_000
"""Most names of one file of which each snapshot counts those alone that show, as many as ext4 lets
a file have. From the layer on that brings more, all are counted, hidden or not."""
_SHIFT = 32
_KEY = SMALL + 64


class Names:
    """The names of an image's files."""

    def __init__(self, links: Links) -> None:
        self._links, self._pile, self._piles = links, links.pile, links.pile.piles

    def count(self, layer: int, inode: Place, nlink: int) -> int:
        """Return how many names of an inode show once a layer is laid on those below it.

        `nlink` is how many its own layer has. Where there are too many, all are counted.
        """
        counts = self._piles.counts
        key = self._top().number, nodeid.pack(0, *inode)
        found = counts.known.get(key)
        if found is None:
            found = tuple(at << _SHIFT | count for at, count in self._counts(inode, nlink))
            counts.keep(key, found, _KEY + 40 * len(found))
        at = bisect_left(found, self._pile.places[layer] + 1 << _SHIFT)
        return found[at - 1] & (1 << _SHIFT) - 1 if at else 0

    def shows(self, inode: Place) -> bool:
        """Tell whether the whole image shows any name of an inode, of whichever layer."""
        return any(self._visible(self._top(), [*self._own(inode), *self._links.to(inode)]))

    def _top(self) -> Chain:
        return self._pile.chain(self._pile.layers[-1])

    def _counts(self, inode: Place, nlink: int) -> Iterator[tuple[int, int]]:
        """Yield how many names show, from which place among the layers on."""
        position = self._pile.places
        links = sorted(self._links.to(inode), key=lambda link: position[link[0]])
        beyond = links[max(0, MAX_COUNTED - nlink) :]
        limit = position[beyond[0][0]] if beyond else len(position)
        if nlink > MAX_COUNTED:
            limit = position[inode[0]]
        changes: Counter[int] = Counter()
        if limit > position[inode[0]]:
            names = [*self._own(inode), *(one for one in links if position[one[0]] < limit)]
            changes.update(position[one[0]] for one in names)
            changes.subtract(self._ends(names))
        count = 0
        for at in sorted(at for at in changes if at < limit):
            count += changes[at]
            yield at, count
        if limit < len(position):
            yield from self._all(inode, nlink, links, limit)

    def _all(
        self, inode: Place, nlink: int, links: list[Place], limit: int
    ) -> Iterator[tuple[int, int]]:
        """Yield how many names there are, from a place among the layers on."""
        position = self._pile.places
        counts = {limit: nlink}
        for count, link in enumerate(links, nlink + 1):
            counts[max(limit, position[link[0]])] = count
        yield from counts.items()

    def _ends(self, names: list[Place]) -> Iterator[int]:
        """Yield where among the layers names end to show, for those that do; each place once."""
        position, layers = self._pile.places, self._pile.layers
        end = 0
        for name, shows in zip(names, self._visible(self._top(), names), strict=True):
            if shows:
                continue
            first = position[name[0]]

            def hidden(at: int, name: Place = name) -> bool:
                return not any(self._visible(self._pile.chain(layers[at]), [name]))

            # Names that lie together mostly end together.
            if not (first < end and hidden(end) and not hidden(end - 1)):
                end = bisect_left(range(len(layers)), True, lo=first, key=hidden)
            yield end

    def _own(self, inode: Place) -> list[Place]:
        """Return the rows of its own layer that name an inode."""
        layer, number = inode
        index = self._pile.indexes[layer]
        return [
            (layer, at)
            for at in index.same_inode(number)
            if not (index.row(at).flags & rows.FOREIGN and self._links.target((layer, at)))
        ]

    def _visible(self, top: Chain, places: Iterable[Place]) -> Iterator[bool]:
        """Tell of each of some leaves' names whether a snapshot shows it."""
        last = (0, -1)
        directory: Spot | None = None
        for place in places:
            check_asker()
            layer, number = place
            index = self._pile.indexes[layer]
            row = index.row(number)
            if (layer, row.parent) != last:
                last = layer, row.parent
                directory = self._piles.shown(top, layer, index, row.parent)
            if directory is None:
                yield False
            elif (directory[0].layer, directory[1]) == last:
                yield not row.flags & rows.HIDDEN
            else:
                found = self._piles.lookup(directory, index.name(row))
                yield found is not None and (found[0].layer, found[1].number) == place
