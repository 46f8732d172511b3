"""The root as a map of rectangles, a level a directory: what the page draws when one is entered.

Owns the numbers: where a rectangle lies, in thousandths of the map's width and height.
"""

from typing import Any

import squarify

from imagefs.report.folders import Node

WIDTH, HEIGHT = 1600, 1000
"""The shape that the map is laid out for; it may be stretched."""
WHOLE = 1000


def mapped(node: Node) -> list[Any]:
    """Return a node as [name, bytes, names, layer, [x, y, width, height] of each child, children].

    A child without a name stands for all that is not shown one by one; one that is no directory,
    or is not entered, ends before its rectangles.
    """
    head = [node.name, node.size, node.count, node.main_kind]
    children = [child for child in node.children if child.size]
    if not children:
        return head
    parts: list[tuple[int, list[Any]]] = [(child.size, mapped(child)) for child in children]
    if node.rest_size:
        rest = ["", node.rest_size, node.rest_count, node.main_kind]
        parts.append((node.rest_size, rest))
    parts.sort(key=lambda part: -part[0])
    rectangles = _layout([size for size, _ in parts])
    return [*head, rectangles, [part for _, part in parts]]


def _layout(sizes: list[int]) -> list[list[int]]:
    areas = squarify.normalize_sizes(sizes, WIDTH, HEIGHT)
    found = []
    for one in squarify.squarify(areas, 0, 0, WIDTH, HEIGHT):
        left, right = (_part(x, WIDTH) for x in (one["x"], one["x"] + one["dx"]))
        top, bottom = (_part(y, HEIGHT) for y in (one["y"], one["y"] + one["dy"]))
        found.append([left, top, right - left, bottom - top])
    return found


def _part(place: float, whole: int) -> int:
    return round(place / whole * WHOLE)
