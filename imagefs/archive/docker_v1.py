"""Archives of Docker before 1.10: no manifest.json, layers chained by their `parent`.

`repositories` maps names and tags to layer ids; `<id>/json` describes a layer and names the one
below it; `<id>/layer.tar` is its content. There are no diff ids, so a layer is known as `v1:<id>`.
Takes an archive's files, returns values. Any thread may call it.
"""

import json
import re
from typing import Any

from imagefs.archive import members
from imagefs.archive.members import KEEP_GOING, Files, shown
from imagefs.archive.model import ArchivedImage, ArchivedLayer, usable_names
from imagefs.errors import CorruptArchive
from imagefs.image.config import MAX_LAYERS
from imagefs.image.platform import joined

REPOSITORIES = "repositories"
_JSON = re.compile(r"([0-9a-f]{64})/json")
_CONFIG = re.compile(r"[0-9a-f]{64}\.json")
_ID = re.compile(r"[0-9a-f]{64}")
MAX_CHAINED = 100_000
"""Layers of all images together: many tags on one long chain are few bytes."""


def applies(files: Files) -> bool:
    """Tell whether the archive has layers of this layout, be it the beginning of a newer one."""
    return any(_JSON.fullmatch(name) for name in files.names())


def may_be_newer(files: Files) -> bool:
    """Tell whether a file is there that newer archives have, though it may mean nothing."""
    return any(_CONFIG.fullmatch(name) for name in files.names())


def read(files: Files) -> tuple[ArchivedImage, ...]:
    """Return the images that `repositories` names or, without it, those nobody is built upon.

    Raises CorruptArchive for damage, and for more images or layers than are read.
    """
    described = _Descriptions(files)
    tops = _tagged(files) or dict.fromkeys(_heads(files, described), ())
    members.bounded(files, len(tops))
    images = []
    layers = 0
    for number, (top, names) in enumerate(tops.items()):
        images.append(_image(files, described, number, top, names))
        layers += len(images[-1].layers)
        if layers > MAX_CHAINED:
            raise CorruptArchive(f"{files.place}: images of more than {MAX_CHAINED} layers in all")
    return tuple(images)


class _Descriptions(dict[str, dict[str, Any]]):
    """What `<id>/json` says, by id; read when first asked for.

    `damage` has those that say nothing, which are made do with.
    """

    def __init__(self, files: Files) -> None:
        super().__init__()
        self._files = files
        self.damage: dict[str, str] = {}

    def __missing__(self, layer_id: str) -> dict[str, Any]:
        name = f"{layer_id}/json"
        try:
            said = members.parse(self._files, name, members.read(self._files, name))
            if not isinstance(said, dict):
                raise CorruptArchive(f"{self._files.place}: {name} is not an object")
        except CorruptArchive as error:
            if not self._files.keep_going:
                raise CorruptArchive(f"{error}{KEEP_GOING}") from error
            self.damage[layer_id] = str(error)
            said = {}
        self[layer_id] = said
        return said


def _tagged(files: Files) -> dict[str, tuple[str, ...]]:
    """Return the names of each image that `repositories` names, by the id of its top layer."""
    file = files.find(REPOSITORIES)
    if file is None:
        return {}
    said = members.parse(files, REPOSITORIES, members.content(files, REPOSITORIES, file))
    tops: dict[str, tuple[str, ...]] = {}
    if not isinstance(said, dict) or not all(isinstance(tags, dict) for tags in said.values()):
        raise CorruptArchive(f"{files.place}: {REPOSITORIES} does not map names to tags")
    for repository, tags in said.items():
        for tag, layer_id in tags.items():
            if not isinstance(layer_id, str) or not _ID.fullmatch(layer_id):
                raise CorruptArchive(
                    f"{files.place}: {REPOSITORIES} gives {shown(repository)}:{shown(tag)}"
                    " something that is no layer id"
                )
            tops[layer_id] = (*tops.get(layer_id, ()), f"{repository}:{tag}")
    return tops


def _heads(files: Files, described: _Descriptions) -> list[str]:
    """Return the ids of the layers that are no other layer's parent."""
    ids = [match[1] for name in files.names() if (match := _JSON.fullmatch(name))]
    parents = {described[layer_id].get("parent") for layer_id in ids}
    heads = sorted(layer_id for layer_id in ids if layer_id not in parents)
    if not heads:
        raise CorruptArchive(f"{files.place}: its layers are one another's parents in a circle")
    return heads


def _image(
    files: Files, described: _Descriptions, number: int, top: str, names: tuple[str, ...]
) -> ArchivedImage:
    chain = _chain(files, described, top)
    layers = tuple(
        ArchivedLayer(
            f"v1:{layer_id}",
            f"{layer_id}/layer.tar",
            files.find(f"{layer_id}/layer.tar"),
            created_by=_created_by(described[layer_id]),
        )
        for layer_id in chain
    )
    names = usable_names(names)
    damage = tuple(described.damage[one] for one in chain if one in described.damage)
    entry = {
        "Config": f"{top}/json",
        "RepoTags": list(names),
        "Layers": [layer.name for layer in layers],
    }
    said = described[top]
    platform = joined(*(said.get(key) for key in ("os", "architecture", "variant")))
    return ArchivedImage(
        f"v1:{top}",
        names,
        b"" if top in described.damage else members.read(files, f"{top}/json"),
        json.dumps(entry).encode(),
        layers,
        platform,
        number,
        damage=damage,
    )


def _chain(files: Files, described: _Descriptions, top: str) -> list[str]:
    """Return the ids of an image's layers, bottom to top."""
    chain: dict[str, None] = {}
    layer_id: Any = top
    while layer_id:
        if not isinstance(layer_id, str) or not _ID.fullmatch(layer_id):
            raise CorruptArchive(
                f"{files.place}: {[*chain][-1]}/json names a parent that is no layer id"
            )
        if layer_id in chain:
            raise CorruptArchive(f"{files.place}: the parents of layer {top} go in a circle")
        if len(chain) >= MAX_LAYERS:
            raise CorruptArchive(f"{files.place}: layer {top} has more than {MAX_LAYERS} parents")
        chain[layer_id] = None
        layer_id = described[layer_id].get("parent")
    return [*chain][::-1]


def _created_by(said: dict[str, Any]) -> str:
    made_in = said.get("container_config")
    command = made_in.get("Cmd") if isinstance(made_in, dict) else None
    return " ".join(str(word) for word in command) if isinstance(command, list) else ""
