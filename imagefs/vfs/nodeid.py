"""Node ids: 64-bit numbers that carry their own address.

    view | layer | row          19 + 16 + 28 bits: never negative as a signed number either

Layer 0 is no layer but the few nodes that the mount itself makes up; layers count from 1. A
directory's view is the one it is seen in, and its layer and row are those of the topmost layer
that has it. A leaf belongs to no view, so that one file is one inode wherever it is seen: its
view is 0, or, where not as many of its names are visible as its layer has, their count.
"""

VIEW_BITS = 19
LAYER_BITS = 16
ROW_BITS = 28  # rows.MAX_ROWS

MAX_VIEWS = (1 << VIEW_BITS) - 1
MAX_LAYERS = (1 << LAYER_BITS) - 1
MAX_ROWS = 1 << ROW_BITS

VIEW_SHIFT = LAYER_BITS + ROW_BITS
LAYER_SHIFT = ROW_BITS
LAYER_MASK = MAX_LAYERS
ROW_MASK = MAX_ROWS - 1


def pack(view: int, layer: int, row: int) -> int:
    """Return the node id of a row of a layer, seen in a view."""
    return view << VIEW_SHIFT | layer << LAYER_SHIFT | row


def unpack(node: int) -> tuple[int, int, int]:
    """Return a node id's view, layer and row."""
    return node >> VIEW_SHIFT, node >> LAYER_SHIFT & LAYER_MASK, node & ROW_MASK
