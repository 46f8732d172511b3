"""What the page's template shows of an image: words, widths and colours, all harmless.

Owns how much of everything fits into a page.
"""

from dataclasses import dataclass
from typing import Any

from imagefs.report import facts
from imagefs.report.differences import Differences
from imagefs.report.folders import Node, pruned, words
from imagefs.report.survey import Found, Survey
from imagefs.report.treemap import mapped
from imagefs.text import size_text
from imagefs.tree.causes import WORDS
from imagefs.tree.waste import LayerWaste

MAP_NODES, CHANGE_NODES, DIFFERENCES = 1700, 1400, 400
"""Nodes that are shown, of all images together: what keeps the page below 300 kB."""
_COLOURS = 10
_STEP, _BRIEF = 600, 110


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar: where it begins and how wide it is, in percent, and what it stands for."""

    x: float
    width: float
    colour: str
    words: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A path with its layer's position and what there is to say of it."""

    path: str
    layer: int
    words: str


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A path of which bytes are hidden, with the positions of who made and who hid them."""

    path: str
    cause: str
    made: int
    by: int
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class LayerView:
    """A layer, its bar, and the tree of what it did."""

    step: str
    brief: str
    damage: str
    bytes: LayerWaste
    bar: list[Part]
    tree: Node

    @property
    def label(self) -> str:
        """What the bar says."""
        return f"{size_text(self.bytes.shown)} shown, {size_text(self.bytes.lost)} hidden"


class View:
    """An image; `numbers`, `colours` and `layers` are by the layers' positions.

    Bars have their full width for `most` bytes; the page shows so many `images`.
    """

    def __init__(self, found: Survey, name: str, most: int, images: int) -> None:
        image, waste = found.image, found.waste
        self.name = name
        self.brought, self.lost = waste.brought, waste.lost
        self.shown = waste.brought - waste.lost
        self.efficiency = f"{100 * self.shown / self.brought:.1f}%" if self.brought else "100%"
        self.files = found.files
        self.facts = facts.facts(image.config)
        self.about = " · ".join(filter(None, (image.id[:19], self.facts.platform)))
        self.numbers = [name.partition("-")[0] for name in image.layer_names()]
        self.colours = _colours(found)
        self.layers = self._layers(found, most, CHANGE_NODES // images)
        root = mapped(pruned(found.root, MAP_NODES // images))
        self.map: dict[str, Any] = {"root": root, "colours": self.colours}
        self.cells = list(zip(root[4], root[5], strict=True)) if len(root) > 4 else []
        self.causes = self._causes(found)
        self.causes_label = "; ".join(f"{one.words}: {size_text(one.size)}" for one in self.causes)
        self.worst = [
            Spoiled("/" + words(path), WORDS[cause], made, by, files, size)
            for path, (made, by, cause), size, files in waste.spoils
        ]
        self.biggest = [_line(one, size_text(one.number)) for one in found.biggest]
        self.setuid = [_line(one, f"{one.number:04o}") for one in found.setuid]
        self.capable = [_line(one, facts.capabilities(one.more)) for one in found.capable]
        self.writable = [_line(one, _writable(one.number)) for one in found.writable]
        self.accounts = facts.accounts(found.passwd)

    def _layers(self, found: Survey, most: int, budget: int) -> list[LayerView]:
        weights = [folder.weight for folder in found.changes]
        # A quarter of what may be shown is for all alike, however little a layer did.
        least = budget // 4 // max(1, len(weights))
        layers = []
        for number, (layer, one) in enumerate(
            zip(found.image.layers, found.waste.layers, strict=True)
        ):
            share = budget * 3 // 4 * weights[number] // max(1, sum(weights))
            shown = _width(one.shown, most)
            layers.append(
                LayerView(
                    facts.cut(layer.created_by, _STEP),
                    facts.cut(layer.created_by, _BRIEF) or layer.short_id,
                    facts.cut(layer.damage),
                    one,
                    [
                        Part(0, shown, self.colours[number]),
                        Part(shown, _width(one.lost, most), "hid"),
                    ],
                    pruned(found.changes[number], least + share),
                )
            )
        return layers

    def _causes(self, found: Survey) -> list[Part]:
        parts: list[Part] = []
        x = 0.0
        for number, (cause, size) in enumerate(found.waste.causes.most_common()):
            width = _width(size, self.lost)
            parts.append(Part(round(x, 3), width, f"h{number}", WORDS[cause], size))
            x += width
        return parts


class DifferencesView:
    """How two images differ."""

    def __init__(self, found: Differences) -> None:
        self.shared, self.grown = found.shared, found.grown
        self.names, self.sizes = found.names, found.sizes
        self.facts = found.facts
        self.tree = pruned(found.paths, DIFFERENCES)


def _colours(found: Survey) -> list[str]:
    """Return a class for each layer; where there are more layers than colours, the largest have one
    each.
    """
    layers = found.waste.layers
    order = sorted(range(len(layers)), key=lambda number: -layers[number].shown)
    chosen = {number: at for at, number in enumerate(sorted(order[:_COLOURS]))}
    return [f"k{chosen[number]}" if number in chosen else "kx" for number in range(len(layers))]


def _width(size: int, most: int) -> float:
    return round(100 * size / most, 3) if most else 0


def _line(found: Found, said: str) -> Line:
    return Line("/" + words(found.path), found.layer, said)


def _writable(mode: int) -> str:
    return f"{mode:04o}" + (", sticky" if mode & 0o1000 else "")
