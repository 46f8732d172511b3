"""Which layers there are to read, and which images hold them.

Owns what a scan remembers of all its images at once, so that it is small: an image is a few
numbers, and a digest or a step that many have in common is kept once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from imagefs.image.short_id import short_id
from imagefs.scanning.model import Holder
from imagefs.source.opening import SourceRequest

PART_BYTES = 256 << 20
"""Bytes of a layer that are one task."""


class PlannedLayer(NamedTuple):
    """A layer of an image: its diff id, the step that made it, and its length in bytes."""

    diff_id: str
    step: str
    size: int


class PlannedImage(NamedTuple):
    """An image of a source, which is known by its id there; its layers are bottom first."""

    id: str
    name: str
    layers: tuple[PlannedLayer, ...]


class Place(NamedTuple):
    """A layer in an image, as a worker finds it again."""

    request: SourceRequest
    image: str
    layer: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a layer to read: the files whose content begins within it.

    `places` are images that hold the layer, of which the next is tried where one fails.
    """

    layer: PlannedLayer
    number: int
    places: tuple[Place, ...]

    @property
    def size(self) -> int:
        """The bytes of the layer that are the part's."""
        return min(PART_BYTES, max(0, self.layer.size - self.number * PART_BYTES))

    @property
    def key(self) -> str:
        """What the part is called, among all parts of all layers."""
        return f"{self.layer.diff_id}-{self.number}"


class Plan:
    """All images of a scan and their layers, each layer once."""

    def __init__(self) -> None:
        self._requests: list[SourceRequest] = []
        self._images: list[tuple[int, str, str, int]] = []
        self._layers: dict[str, tuple[PlannedLayer, list[int]]] = {}
        self._same: dict[str, str] = {}

    def add(self, request: SourceRequest, image: PlannedImage) -> None:
        """Note an image of a source."""
        if not self._requests or self._requests[-1] is not request:
            self._requests.append(request)
        number = len(self._images)
        known = self._same.setdefault
        self._images.append(
            (len(self._requests) - 1, known(image.id, image.id), image.name, len(image.layers))
        )
        for at, layer in enumerate(image.layers):
            found = self._layers.get(layer.diff_id)
            if found is None:
                step = known(layer.step, layer.step)
                found = self._layers[layer.diff_id] = layer._replace(step=step), []
            # One number for image and position: there are many of them.
            found[1].append(number << 16 | at)

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self._images)

    @property
    def layers(self) -> int:
        """How many different layers there are."""
        return len(self._layers)

    @property
    def bytes(self) -> int:
        """The bytes of all different layers."""
        return sum(layer.size for layer, _ in self._layers.values())

    def parts(self) -> Iterator[Part]:
        """Yield what there is to read, the largest layers first, as they take longest."""
        for layer, held in sorted(self._layers.values(), key=lambda one: -one[0].size):
            places = tuple(self._place(one) for one in held[:3])
            for number in range(max(1, -(-layer.size // PART_BYTES))):
                yield Part(layer, number, places)

    def holders(self, diff_id: str) -> tuple[tuple[Place, ...], tuple[Holder, ...]]:
        """Return the images that hold a layer: where a worker finds them, and for people."""
        held = self._layers[diff_id][1]
        return tuple(map(self._place, held)), tuple(self._holder(one, diff_id) for one in held)

    def _place(self, held: int) -> Place:
        request, image, _, _ = self._images[held >> 16]
        return Place(self._requests[request], image, held & 0xFFFF)

    def _holder(self, held: int, diff_id: str) -> Holder:
        request, image, name, count = self._images[held >> 16]
        width = max(2, len(str(count - 1)))
        directory = f"{held & 0xFFFF:0{width}}-{short_id(diff_id)}"
        return Holder(self._requests[request].text, image, name, directory)
