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
from imagefs.archive.members import KEEP_GOING, Files, shown
from imagefs.archive.model import ArchivedImage, ArchivedLayer, lost_id, usable_names
from imagefs.errors import CorruptArchive
from imagefs.image import config as image_config
from imagefs.image import safe_json

MANIFEST = "manifest.json"
_BETWEEN = re.compile(r"[ \t\r\n,]*")


def read(files: Files, manifest: bytes, *, make_do: bool = False) -> tuple[ArchivedImage, ...]:
    """Return the images that a manifest.json lists, in its order.

    To `make_do` is to take the layers of an image without the configuration that says what they
    are, where that is missing, damaged or another image's. Else that is a CorruptArchive, as is
    damage of the list itself.
    """
    parsed = members.parse(files, MANIFEST, manifest)
    if not isinstance(parsed, list):
        raise CorruptArchive(f"{files.place}: {MANIFEST} is not a list of images")
    if not parsed:
        raise CorruptArchive(f"{files.place}: {MANIFEST} lists no image")
    members.bounded(files, len(parsed))
    return tuple(
        _Entry(files, number, entry, written).image(make_do=make_do)
        for number, (entry, written) in enumerate(zip(parsed, _as_written(manifest), strict=True))
    )


def _as_written(manifest: bytes) -> Iterator[bytes]:
    """Yield the items of a JSON list byte for byte."""
    text = manifest.decode(json.detect_encoding(manifest), "surrogatepass")
    decoder = json.JSONDecoder(parse_int=safe_json.integer)
    at = text.index("[") + 1
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if text[at] == "]":
            return
        _, end = decoder.raw_decode(text, at)
        yield text[at:end].encode("utf-8", "surrogatepass")
        at = end


class _Entry:
    """An image of a manifest.json: its item, parsed and as it was written."""

    def __init__(self, files: Files, number: int, said: Any, written: bytes) -> None:
        self._files = files
        self._number = number
        self._written = written
        self._where = f"{files.place}: image {number} of {MANIFEST}"
        if not isinstance(said, dict):
            raise CorruptArchive(f"{self._where} is not an object")
        config_name = said.get("Config")
        if not isinstance(config_name, str):
            raise CorruptArchive(f"{self._where} names no Config; what has no Config is no image")
        self._config_name = config_name
        self._names = usable_names(_strings(said.get("RepoTags"), f"{self._where}: RepoTags"))
        self._paths = _strings(said.get("Layers"), f"{self._where}: Layers")

    def image(self, *, make_do: bool) -> ArchivedImage:
        try:
            config = members.read(self._files, self._config_name)
            facts = self._facts(config)
        except CorruptArchive as error:
            if make_do and self._paths:
                return self._without_config(str(error))
            raise CorruptArchive(f"{error}{KEEP_GOING}") from error
        layers = tuple(
            ArchivedLayer(diff_id, path, self._files.find(path), created_by=created_by)
            for diff_id, path, created_by in zip(
                facts.diff_ids, self._paths, facts.created_by, strict=True
            )
        )
        return ArchivedImage(
            f"sha256:{sha256(config).hexdigest()}",
            self._names,
            config,
            self._written,
            layers,
            facts.platform,
            self._number,
        )

    def _facts(self, config: bytes) -> image_config.ImageConfig:
        name = shown(self._config_name)
        try:
            facts = image_config.parse(config)
        except CorruptArchive as error:
            raise CorruptArchive(f"{self._files.place}: {name}: {error}") from error
        if len(self._paths) != len(facts.diff_ids):
            raise CorruptArchive(
                f"{self._where} has {len(self._paths)} layers, but its configuration {name}"
                f" has {len(facts.diff_ids)} diff ids: they count different layers"
            )
        return facts

    def _without_config(self, damage: str) -> ArchivedImage:
        """Return the image of what layers there are."""
        if len(self._paths) > image_config.MAX_LAYERS:
            raise CorruptArchive(damage)
        return ArchivedImage(
            f"sha256:{sha256(self._written).hexdigest()}",
            self._names,
            b"",
            self._written,
            tuple(
                ArchivedLayer(lost_id(number, path), path, self._files.find(path))
                for number, path in enumerate(self._paths)
            ),
            entry=self._number,
            damage=(damage,),
        )


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise CorruptArchive(f"{what} is not a list of strings")
    for item in value:
        if not isinstance(item, str):
            raise CorruptArchive(f"{what} is not a list of strings: {shown(item)} is no string")
    return tuple(value)
