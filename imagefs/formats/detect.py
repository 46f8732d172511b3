"""Which format an archive is of: told by the files in it and what their JSON looks like.

Owns the order in which formats are tried, and the line between an archive of images and the flat
root of one. Any thread may call it.
"""

import json
import os
import re
from dataclasses import replace
from typing import Any

from imagefs.errors import CorruptArchive
from imagefs.formats import docker_archive, docker_legacy, members, oci, producer, rootfs_tar
from imagefs.formats.members import Files, TarFiles
from imagefs.formats.values import Packed, Piece
from imagefs.tarscan import scan

_MANIFEST = "manifest.json"
_ARCHIVE_NAME = re.compile(
    r"manifest\.json|index\.json|oci-layout|repositories|version|config\.json"
    r"|(sha256:)?[0-9a-f]{64}(/(VERSION|json|layer\.tar))?(\.[a-z.]+)?"
    r"|blobs(/[a-z0-9]+(/[0-9a-f]+(\.[a-z.]+)?)?)?"
)
_ROOT_NAMES = frozenset({"bin", "dev", "etc", "lib", "proc", "root", "sbin", "tmp", "usr", "var"})
_FLAT_AFTER = 1000
_NO_END = 1 << 62


def is_archive_name(name: str) -> bool:
    """Tell whether a member's name is one that an archive of images would have."""
    return _ARCHIVE_NAME.fullmatch(name) is not None


def enough() -> "_Enough":
    """Return a condition for `TarFiles` that stops reading a flat root's many members."""
    return _Enough()


class _Enough:
    """True once many members have been seen of which none belongs to an archive of images."""

    def __init__(self) -> None:
        self._archive = False

    def __call__(self, count: int, name: str) -> bool:
        self._archive = self._archive or is_archive_name(name)
        return not self._archive and count >= _FLAT_AFTER


def read_tar(files: TarFiles, piece: Piece) -> Packed:
    """Return what a tar holds; `piece` is the tar itself, should it be a flat root."""
    if files.whole and (packed := _read(files, flat=_is_root(files))) is not None:
        return packed
    names = [name for name in (*files.names(), *files.directories) if name]
    if any(map(is_archive_name, names)) and not _is_root(files):
        raise _nameless(files)
    if not names:
        raise CorruptArchive(f"{files.place}: an empty tar archive")
    if not piece.damage and not files.is_ended():
        piece = replace(piece, damage="it ends without an end-of-archive marker")
    return Packed(files.place, producer.FLAT, (rootfs_tar.read(piece),))


def read_directory(files: Files) -> Packed:
    """Return what a directory holds."""
    packed = _read(files, flat=False)
    if packed is None:
        raise CorruptArchive(
            f"{files.place}: holds neither manifest.json nor index.json, so it is neither an OCI"
            " layout nor what `skopeo copy` makes with dir:"
        )
    return packed


def read_parts(files: Files) -> Packed:
    """Return what an archive holds that was taken apart because its first name promised so."""
    packed = _read(files, flat=False)
    if packed is None:
        raise _nameless(files)
    return packed


def _nameless(files: Files) -> CorruptArchive:
    return CorruptArchive(
        f"{files.place}: an archive of images without manifest.json or index.json; was it cut off?"
    )


def begins_archive(head: bytes) -> bool:
    """Tell whether the first name of a tar, of which `head` is the beginning, is an archive's."""
    try:
        for member in scan(lambda size, at: head[at : at + size], 0, _NO_END):
            name = members.normal(os.fsdecode(member.name))
            if name:
                return is_archive_name(name)
    except CorruptArchive:
        pass
    return False


def _is_root(files: TarFiles) -> bool:
    tops = {name.partition("/")[0] for name in (*files.directories, *files.names())}
    return bool(tops & _ROOT_NAMES)


def _read(files: Files, *, flat: bool) -> Packed | None:
    """Try the formats in order; manifest.json goes first, as Docker's own index may be wrong."""
    piece = files.find(_MANIFEST)
    if piece is not None:
        written = members.content(files, _MANIFEST, piece)
        if not flat or _describes_images(written):
            said = members.parse(files, _MANIFEST, written)
            if isinstance(said, list):
                images = docker_archive.read(files, written)
                return Packed(files.place, producer.of_docker_archive(files, written), images)
            if isinstance(said, dict):
                return Packed(files.place, producer.DIR, oci.read_dir(files, written))
            raise CorruptArchive(f"{files.place}: {_MANIFEST} is neither a list nor an object")
    index = files.find(oci.INDEX)
    if index is not None and not flat:
        written = members.content(files, oci.INDEX, index)
        return Packed(files.place, producer.OCI, oci.read_layout(files, written))
    if not flat and docker_legacy.applies(files):
        named = files.find(docker_legacy.REPOSITORIES) is not None
        if not named and isinstance(files, TarFiles) and not files.is_ended():
            raise _nameless(files)
        return Packed(files.place, producer.LEGACY, docker_legacy.read(files))
    return None


def _describes_images(written: bytes) -> bool:
    """Tell whether a manifest.json beside /etc and /usr is about images all the same."""
    try:
        said: Any = json.loads(written)
    except (ValueError, RecursionError):
        return False
    first = said[0] if isinstance(said, list) and said else said
    return isinstance(first, dict) and ("Layers" in first or "layers" in first)
