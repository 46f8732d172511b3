"""Which format an archive is of: told by the files in it and what their JSON looks like.

Owns the order in which formats are tried, and the line between an archive of images and the flat
root of one. Any thread may call it.
"""

import os
import re
from dataclasses import replace
from typing import Any

from imagefs.archive import docker_oci, docker_v1, members, oci, producer, rootfs_tar
from imagefs.archive.members import Files, TarFiles
from imagefs.archive.model import ArchiveContents, ArchiveFile
from imagefs.errors import CorruptArchive
from imagefs.image import safe_json
from imagefs.tar.scan import NO_END, scan

_MANIFEST = "manifest.json"
_ARCHIVE_NAME = re.compile(
    r"manifest\.json|index\.json|oci-layout|repositories|version|config\.json"
    r"|(sha256:)?[0-9a-f]{64}(/(VERSION|json|layer\.tar))?(\.[a-z.]+)?"
    r"|blobs(/[a-z0-9]+(/[0-9a-f]+(\.[a-z.]+)?)?)?"
)
_TELLING_NAME = re.compile(
    r"oci-layout|(sha256:)?[0-9a-f]{64}([./].*)?|blobs/[a-z0-9]+/[0-9a-f]{64}.*", re.DOTALL
)
_ROOT_NAMES = frozenset({"bin", "dev", "etc", "lib", "proc", "root", "sbin", "tmp", "usr", "var"})
_FLAT_AFTER = 1000


def is_archive_name(name: str) -> bool:
    """Tell whether a member's name is one that an archive of images would have."""
    return _ARCHIVE_NAME.fullmatch(name) is not None


def _is_telling(name: str) -> bool:
    """Tell whether a name is one that only an archive of images would have.

    config.json, index.json, manifest.json and version are also files of many a web server's root.
    """
    return _TELLING_NAME.fullmatch(name) is not None


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


def read_tar(files: TarFiles, file: ArchiveFile) -> ArchiveContents:
    """Return what a tar holds; `file` is the tar itself, should it be a flat root.

    Raises CorruptArchive for one that is neither, or is damaged.
    """
    names = [name for name in (*files.names(), *files.directories) if name]
    flat = _is_root(files) or not any(map(_is_telling, names))
    if files.whole and (contents := _read(files, flat=flat)) is not None:
        return contents
    if not flat:
        raise _nameless(files)
    if not names:
        raise CorruptArchive(f"{files.place}: an empty tar archive")
    if not file.damage and not files.is_ended():
        file = replace(file, damage="it ends without an end-of-archive marker")
    return ArchiveContents(files.place, producer.FLAT, (rootfs_tar.read(file),))


def read_directory(files: Files) -> ArchiveContents:
    """Return what a directory holds. Raises CorruptArchive if that is no image."""
    contents = _read(files, flat=False)
    if contents is None:
        raise CorruptArchive(
            f"{files.place}: holds neither manifest.json nor index.json, so it is neither an OCI"
            " layout nor what `skopeo copy` makes with dir:"
        )
    return contents


def read_parts(files: Files) -> ArchiveContents:
    """Return what an archive holds that was taken apart because its first name promised so."""
    contents = _read(files, flat=False)
    if contents is None:
        raise _nameless(files)
    return contents


def _nameless(files: Files) -> CorruptArchive:
    return CorruptArchive(
        f"{files.place}: an archive of images without manifest.json or index.json; was it cut off?"
    )


def begins_archive(head: bytes) -> bool:
    """Tell whether a tar, of which `head` is the beginning, is an archive for certain.

    Its first names say so, or the content of a manifest.json or index.json that goes first.
    """
    try:
        for member in scan(lambda size, at: head[at : at + size], 0, NO_END):
            name = members.normal(os.fsdecode(member.name))
            if _is_telling(name):
                return True
            written = head[member.offset : member.offset + member.stored]
            if name in _DESCRIBES and _DESCRIBES[name](written):
                return True
            if name and not is_archive_name(name):
                return False
    except CorruptArchive:
        pass
    return False


def _is_root(files: TarFiles) -> bool:
    tops = {name.partition("/")[0] for name in (*files.directories, *files.names())}
    return bool(tops & _ROOT_NAMES)


def _read(files: Files, *, flat: bool) -> ArchiveContents | None:
    """Try the formats in order; manifest.json goes first, as Docker's own index may be wrong.

    What may as well be a flat root is an archive only if its JSON does describe images.
    """
    file = files.find(_MANIFEST)
    if file is not None and (not flat or _describes(files, _MANIFEST, file)):
        written = members.content(files, _MANIFEST, file)
        said = members.parse(files, _MANIFEST, written)
        if isinstance(said, list):
            return docker_oci.read(files, written)
        if isinstance(said, dict):
            return ArchiveContents(files.place, producer.DIR, oci.read_dir(files, written))
        raise CorruptArchive(f"{files.place}: {_MANIFEST} is neither a list nor an object")
    index = files.find(oci.INDEX)
    if index is not None and (not flat or _describes(files, oci.INDEX, index)):
        written = members.content(files, oci.INDEX, index)
        return ArchiveContents(files.place, producer.OCI, oci.read_layout(files, written))
    if not flat and docker_v1.applies(files):
        named = files.find(docker_v1.REPOSITORIES) is not None
        ended = not isinstance(files, TarFiles) or files.is_ended()
        # `repositories` comes after manifest.json, and `docker load` does without that one too.
        if not (named and ended) and (docker_v1.may_be_newer(files) or not (named or ended)):
            raise _nameless(files)
        return ArchiveContents(files.place, producer.LEGACY, docker_v1.read(files))
    return None


def _describes(files: Files, name: str, file: ArchiveFile) -> bool:
    """Tell whether a file that may be anybody's is about images."""
    if file.damage or file.blob.length > members.MAX_JSON:
        return False
    try:
        return _DESCRIBES[name](members.content(files, name, file))
    except safe_json.TooMuchJsonError as error:
        raise CorruptArchive(f"{files.place}: {name}: {error}") from error


def _manifest_describes(written: bytes) -> bool:
    said = _parsed(written)
    if isinstance(said, list):
        first = said[0] if said else None
        return isinstance(first, dict) and "Config" in first and "Layers" in first
    return isinstance(said, dict) and (
        _lists_digests(said, "layers") or _lists_digests(said, "manifests")
    )


def _index_describes(written: bytes) -> bool:
    said = _parsed(written)
    return isinstance(said, dict) and _lists_digests(said, "manifests")


def _parsed(written: bytes) -> Any:
    try:
        return safe_json.loads(written)
    except safe_json.TooMuchJsonError:
        raise
    except safe_json.BadJsonError:
        return None


def _lists_digests(said: dict[str, Any], key: str) -> bool:
    items = said.get(key)
    first = items[0] if isinstance(items, list) and items else None
    return isinstance(first, dict) and isinstance(first.get("digest"), str)


_DESCRIBES = {_MANIFEST: _manifest_describes, oci.INDEX: _index_describes}
