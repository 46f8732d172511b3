"""The docker-archive: a manifest.json that lists images, their configurations and their layers.

Docker since 1.10 writes it, and so do Podman, Skopeo, Kaniko, crane, ko, Jib, Bazel and Nix, each
with file names of its own; only what manifest.json says of them is believed. Takes an archive's
files, returns values. Any thread may call it.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

from imagefs.archive import members
from imagefs.archive.members import Files, shown
from imagefs.archive.model import PackedImage, PackedLayer, usable_names
from imagefs.errors import CorruptArchive
from imagefs.image import config as image_config

MANIFEST = "manifest.json"
_BETWEEN = re.compile(r"[ \t\r\n,]*")


def read(files: Files, manifest: bytes) -> tuple[PackedImage, ...]:
    """Return the images that a manifest.json lists, in its order."""
    parsed = members.parse(files, MANIFEST, manifest)
    if not isinstance(parsed, list):
        raise CorruptArchive(f"{files.place}: {MANIFEST} is not a list of images")
    if not parsed:
        raise CorruptArchive(f"{files.place}: {MANIFEST} lists no image")
    members.bounded(files, len(parsed))
    return tuple(
        _image(files, number, entry, written)
        for number, (entry, written) in enumerate(zip(parsed, _as_written(manifest), strict=True))
    )


def _as_written(manifest: bytes) -> Iterator[bytes]:
    """Yield the items of a JSON list byte for byte."""
    text = manifest.decode(json.detect_encoding(manifest), "surrogatepass")
    decoder = json.JSONDecoder()
    at = text.index("[") + 1
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if text[at] == "]":
            return
        _, end = decoder.raw_decode(text, at)
        yield text[at:end].encode("utf-8", "surrogatepass")
        at = end


def _image(files: Files, number: int, entry: Any, written: bytes) -> PackedImage:
    where = f"{files.place}: image {number} of {MANIFEST}"
    if not isinstance(entry, dict):
        raise CorruptArchive(f"{where} is not an object")
    config_name = entry.get("Config")
    if not isinstance(config_name, str):
        raise CorruptArchive(f"{where} names no Config")
    names = usable_names(_strings(entry.get("RepoTags"), f"{where}: RepoTags"))
    paths = _strings(entry.get("Layers"), f"{where}: Layers")
    config = members.read(files, config_name)
    try:
        facts = image_config.parse(config)
    except CorruptArchive as error:
        raise CorruptArchive(f"{files.place}: {shown(config_name)}: {error}") from error
    if len(paths) != len(facts.diff_ids):
        raise CorruptArchive(
            f"{where} has {len(paths)} layers, but its configuration {shown(config_name)}"
            f" has {len(facts.diff_ids)} diff ids"
        )
    layers = tuple(
        PackedLayer(diff_id, path, files.find(path), created_by=created_by)
        for diff_id, path, created_by in zip(facts.diff_ids, paths, facts.created_by, strict=True)
    )
    image_id = f"sha256:{sha256(config).hexdigest()}"
    return PackedImage(image_id, names, config, written, layers, facts.platform, number)


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CorruptArchive(f"{what} is not a list of strings")
    return tuple(value)
