"""From sources to trees: one image's, or two that are to be compared.

Owns which layers two images share. May be called from any thread; each call makes trees of its own.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagefs.filesystem import ROOT_ID
from imagefs.image.model import Image
from imagefs.image.options import SourceOptions
from imagefs.index.alike import same_bytes
from imagefs.progress import Progress, Silent
from imagefs.source import opening
from imagefs.source.opening import SourceRequest
from imagefs.store.store import Store
from imagefs.tree.tree import Tree
from imagefs.vfs.image_fs import ImageFs


def open_tree(request: SourceRequest, view: str, progress: Progress | None = None) -> Tree:
    """Return a view of the image that a request means; the errors are opening.open_image's."""
    store = Store()
    image = opening.open_image(request, store, progress or Silent())
    fs = ImageFs()
    fs.add_image(image, store.index_dir)
    return Tree(fs, image, ROOT_ID, request, view)


def open_two(
    old: SourceRequest, new: SourceRequest, view: str, progress: Progress | None = None
) -> tuple[Tree, Tree]:
    """Return a view of two images, in one file system where the layers that they share are one.

    Layers are taken to be the same where their bytes are, not where they say that they are: an
    archive that is read in place may say anything. Where one says so wrongly, the images share
    nothing.
    """
    store, progress = Store(), progress or Silent()
    images = [opening.open_image(request, store, progress) for request in (old, new)]
    joined = _joined(images[0], images[1], store.index_dir)
    fs = ImageFs()
    fs.add_image(images[0], store.index_dir)
    first = Tree(fs, images[0], ROOT_ID, old, view)
    if joined is None:
        fs, top, joined = ImageFs(), ROOT_ID, images[1]
    else:
        top = fs.synthetic.directory(ROOT_ID).node
    fs.add_image(joined, store.index_dir, top)
    return first, Tree(fs, joined, top, new, view)


def _joined(one: Image, other: Image, index_dir: Path) -> Image | None:
    """Return the other image with the layers that it shares as one has them; None if one lies."""
    held = {layer.diff_id: layer for layer in one.layers}
    layers = []
    for layer in other.layers:
        same = held.get(layer.diff_id, layer)
        if same.blob != layer.blob and not (same.stored and layer.stored):
            if not same_bytes(same, layer, index_dir):
                return None
            # The step that made it may be another all the same.
            layer = replace(layer, blob=same.blob, stored=same.stored)  # noqa: PLW2901
        layers.append(layer)
    return replace(other, layers=tuple(layers))


def open_image(source: str | os.PathLike[str], view: str = "rootfs", **options: Any) -> Tree:
    """Open an image that an archive, a directory or an engine has, and return a view of it.

    The options are those of SourceOptions: `image`, `platform`, `host`, `keep_going`, `verify`.
    """
    return open_tree(SourceRequest(os.fspath(source), SourceOptions(**options)), view)
