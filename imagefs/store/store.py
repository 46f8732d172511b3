"""The content-addressed cache: whole layers by diff id, images by id, and what they were called.

Owns the promise that nothing in the cache is half-made or unverified: content is written in a
workspace, checked, synced and renamed. Knows nothing of engines, of archives or of what is inside
a layer. Everything that a Store hands out is safe from `prune` until
the Store is closed or its process, and every fork of it, has ended. Any thread may call it.

    CACHEDIR.TAG             marks the directory as ours, by what it says, and as not worth a backup
    layers/sha256/<hex>.tar  an uncompressed layer; <hex> is its diff id
    archives/<hex>           what is left of an archive that was taken apart into layers
    images/<hex>/            config.json, manifest.json, names.json of the image with that id
    refs/                    what names and ids have meant: the answer when the engine is down
    index/                   the layers' indexes, which their own module writes; `memory` there is
                             locked in part by who takes much of it (`host/memory.py`)
    erofs/                   metadata for the kernel's own driver, which its own module writes
    uses/                    what living processes have mounted: one locked file each
    locks/                   one file for each piece of work that two processes may want to do
    work/                    what is not whole yet: one locked directory for each piece of work
"""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock

from imagefs.errors import CorruptArchive, HostError
from imagefs.host.files import (
    fsync_directory,
    host_errors,
    take_lock,
    write_synced,
)
from imagefs.image import config as image_config
from imagefs.image.json_shape import strings
from imagefs.image.model import Blob, Image, Layer
from imagefs.store.directory import CacheDirectory
from imagefs.store.hashed_file import HashedFile
from imagefs.store.refs import Refs

_DIGITS = re.compile("[0-9a-f]{64}")
ARCHIVE_MARK = b"imagefs parts 1\n"
"""What the record of an archive ends with; see `archive.record`."""


class Store(CacheDirectory):
    """The cache in a directory, which is made if it does not exist. See CacheDirectory."""

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(root)
        self.layers_dir = self.root / "layers" / "sha256"
        self.archives_dir = self.root / "archives"
        self.images_dir = self.root / "images"
        self.refs = Refs(self.root / "refs")
        self._use_fd: int | None = None
        self._used: set[str] = set()
        self._mutex = Lock()
        with host_errors(self.root):
            self._make_rooms()

    def close(self) -> None:
        """Give up the claim on what was handed out, unless a fork still holds it."""
        with self._mutex:
            if self._use_fd is not None:
                os.close(self._use_fd)
            self._use_fd = None
            self._used.clear()

    def _make_rooms(self) -> None:
        has_archives = self.archives_dir.exists()
        for directory in (
            self.layers_dir,
            self.archives_dir,
            self.images_dir,
            self.refs.directory,
        ):
            directory.mkdir(parents=True, exist_ok=True)
        if not has_archives:
            self._move_archives()

    def _move_archives(self) -> None:
        """Bring to their place what versions without `archives` filed among the layers."""
        with self.guard():
            for name in self.layer_ids():
                path = self.layer_path(name)
                with path.open("rb") as file:
                    file.seek(-min(len(ARCHIVE_MARK), path.stat().st_size), os.SEEK_END)
                    if file.read() == ARCHIVE_MARK:
                        path.rename(self.archive_path(name))

    # What is there

    def layer_path(self, diff_id: str) -> Path:
        """Return where the layer of a diff id is, or would be."""
        return self.layers_dir / f"{_hex(diff_id)}.tar"

    def name_of(self, diff_id: str) -> str:
        """Return the SHA-256 of a layer's bytes, which layers are kept by.

        Of a diff id by another algorithm it is what was remembered; "" where nothing was.
        """
        return diff_id if diff_id.startswith("sha256:") else self.recall(diff_id) or ""

    def layer(self, diff_id: str) -> Blob | None:
        """Return a layer's bytes, or None if they are not in the store."""
        with host_errors(self.root), self.guard(shared=True):
            try:
                blob = self._blob(diff_id)
            except (CorruptArchive, FileNotFoundError):
                return None
            self._claim([blob.digest])
        return blob

    def discard_layers(self, diff_ids: Iterable[str]) -> None:
        """Remove layers that are not whole, so that they are brought in anew when next wanted."""
        with host_errors(self.root), self.guard():
            for name in filter(None, map(self.name_of, diff_ids)):
                self.layer_path(name).unlink(missing_ok=True)

    def layer_ids(self) -> list[str]:
        """Return the diff ids of all layers."""
        return _digests(
            name.removesuffix(".tar")
            for name in os.listdir(self.layers_dir)
            if name.endswith(".tar")
        )

    def archive_path(self, digest: str) -> Path:
        """Return where the record of an archive is, or would be."""
        return self.archives_dir / _hex(digest)

    def archive(self, digest: str) -> Blob | None:
        """Return the record of an archive, or None if it is not in the store."""
        with host_errors(self.root), self.guard(shared=True):
            path = self.archive_path(digest)
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                return None
            self._claim([digest])
        return Blob(path, 0, size, digest=digest)

    def discard_archive(self, digest: str) -> None:
        """Remove a record that cannot be read, so that the archive is brought in anew."""
        with host_errors(self.root), self.guard():
            self.archive_path(digest).unlink(missing_ok=True)

    def archive_ids(self) -> list[str]:
        """Return the digests of all records of archives."""
        return _digests(os.listdir(self.archives_dir))

    def image_path(self, image_id: str) -> Path:
        """Return the directory where the image of an id is, or would be."""
        return self.images_dir / _hex(image_id)

    def image(self, image_id: str) -> Image | None:
        """Return an image, or None if it, or one of its layers, is not in the store."""
        with host_errors(self.root), self.guard(shared=True):
            image = self.peek(image_id)
            if image is not None:
                self._claim([image.id, *(self.name_of(layer.diff_id) for layer in image.layers)])
        return image

    def peek(self, image_id: str) -> Image | None:
        """Return an image as `image` does, but lay no claim to it."""
        try:
            directory = self.image_path(image_id)
            config = (directory / "config.json").read_bytes()
            manifest = (directory / "manifest.json").read_bytes()
            names = strings(json.loads((directory / "names.json").read_bytes()))
            if sha256(config).hexdigest() != _hex(image_id):
                return None
            facts = image_config.parse(config)
            layers = tuple(
                Layer(diff_id, self._blob(diff_id), True, created_by)
                for diff_id, created_by in zip(facts.diff_ids, facts.created_by, strict=True)
            )
        except (FileNotFoundError, CorruptArchive, TypeError, ValueError):
            return None
        return Image(image_id, names, config, manifest, layers)

    def _blob(self, diff_id: str) -> Blob:
        name = self.name_of(diff_id)
        path = self.layer_path(name)
        return Blob(path, 0, path.stat().st_size, digest=name)

    def _claim(self, ids: list[str]) -> None:
        """Note in this process's file of uses what it has been given; the guard must be held."""
        with self._mutex:
            new = [name for name in ids if name not in self._used]
            if not new:
                return
            if self._use_fd is None:
                path = self.uses_dir / os.urandom(8).hex()
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._use_fd = os.open(path, flags, 0o600)
                take_lock(self._use_fd)
            os.write(self._use_fd, "".join(f"{name}\n" for name in new).encode())
            self._used.update(new)
        for name in new:
            _mark_used(self.layer_path(name))
            _mark_used(self.archive_path(name))
            _mark_used(self.image_path(name))

    # What comes in

    @contextmanager
    def layer_writer(self, diff_id: str | None) -> Iterator[HashedFile]:
        """Take a layer in: what the block writes is kept if its digest is `diff_id`, or None.

        Raises CorruptArchive at the end of the block if the digest is another.
        """
        with self.workspace() as work, host_errors(self.root):
            with HashedFile(work / "layer") as file:
                yield file
                file.finish()
            if diff_id is not None and file.digest != diff_id:
                raise CorruptArchive(
                    f"layer {diff_id} is damaged: the digest of its bytes is {file.digest}"
                )
            self.adopt_layer(file.path, file.digest)

    def adopt_layer(self, path: Path, diff_id: str) -> Blob:
        """Move a synced file whose digest is `diff_id` into the store."""
        self._adopt(path, self.layer_path(diff_id), diff_id)
        return self._blob(diff_id)

    def adopt_archive(self, path: Path, digest: str) -> None:
        """Move a synced record whose digest is `digest` into the store."""
        self._adopt(path, self.archive_path(digest), digest)

    def _adopt(self, path: Path, final: Path, digest: str) -> None:
        with self.guard(shared=True):
            path.replace(final)
            fsync_directory(final.parent)
            self._claim([digest])

    def adopt_image(
        self, image_id: str, names: tuple[str, ...], config: bytes, manifest: bytes
    ) -> Image:
        """Make an image visible whose layers the store has. Raises HostError if they have gone."""
        final = self.image_path(image_id)
        with self.workspace() as work, host_errors(self.root):
            made = work / "image"
            made.mkdir()
            write_synced(made / "config.json", config)
            write_synced(made / "manifest.json", manifest)
            write_synced(made / "names.json", json.dumps(names).encode())
            fsync_directory(made)
            with self.guard():
                if final.exists():
                    final.rename(work / "former")
                made.rename(final)
                fsync_directory(final.parent)
                self._claim([image_id])
        image = self.image(image_id)
        if image is None:
            raise HostError(f"{self.root}: image {image_id} was removed while it was stored")
        return image

    def remember(self, key: str, image_id: str, name: str | None = None) -> None:
        """Note that `key` means an image; `name` is what a person calls it by that key."""
        if self.refs.get(key) != image_id:
            with self.workspace() as work, host_errors(self.root):
                self.refs.put(key, image_id, name, work / "ref")

    def recall(self, key: str) -> str | None:
        """Return the id of the image that `key` last meant."""
        return self.refs.get(key)

    def ids(self, prefix: str = "") -> list[str]:
        """Return the ids of the images whose hex digits begin with `prefix`."""
        return _digests(name for name in os.listdir(self.images_dir) if name.startswith(prefix))


def _digests(names: Iterable[str]) -> list[str]:
    """Return the digests that files are named by, and leave out what is called otherwise."""
    return [f"sha256:{name}" for name in names if _DIGITS.fullmatch(name)]


def _mark_used(path: Path) -> None:
    """Set the access time, by which `prune` knows what was used last.

    The modification time stays: to a mount it is the proof that nobody rewrote the file.
    """
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _hex(digest: str) -> str:
    """Return the hex digits of a sha256 digest: the only thing that may become a file name."""
    algorithm, _, digits = digest.partition(":")
    if algorithm != "sha256" or not _DIGITS.fullmatch(digits):
        raise CorruptArchive(f"{digest[:80]!r} is not a sha256 digest")
    return digits
