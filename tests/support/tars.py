"""A small language for tars, and for reading back the trees that imagefs makes of them.

    layer({"a/": Dir(0o700), "a/x": "content", "a/l": Sym("x"), "a/.wh.y": ""})

Headers are written by Python's tarfile, which shares nothing with imagefs's own parser.
"""

import hashlib
import io
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from imagefs.filesystem import ROOT_ID, Attr, FileSystem
from imagefs.image.model import Blob, Image, Layer
from imagefs.vfs.image_fs import ImageFs, image_fs


@dataclass(frozen=True)
class Node:
    """A member: its type, and what its header is to say."""

    type: bytes = tarfile.REGTYPE
    content: bytes = b""
    target: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 0
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def File(content: str | bytes = "", mode: int = 0o644, **header: object) -> Node:  # noqa: N802
    data = content.encode() if isinstance(content, str) else content
    return Node(content=data, mode=mode, **header)  # type: ignore[arg-type]


def Dir(mode: int = 0o755, **header: object) -> Node:  # noqa: N802
    return Node(tarfile.DIRTYPE, mode=mode, **header)  # type: ignore[arg-type]


def Sym(target: str, **header: object) -> Node:  # noqa: N802
    return Node(tarfile.SYMTYPE, target=target, mode=0o777, **header)  # type: ignore[arg-type]


def Hard(target: str, **header: object) -> Node:  # noqa: N802
    return Node(tarfile.LNKTYPE, target=target, **header)  # type: ignore[arg-type]


def Char(major: int, minor: int, mode: int = 0o600) -> Node:  # noqa: N802
    return Node(tarfile.CHRTYPE, device=(major, minor), mode=mode)


def Block(major: int, minor: int, mode: int = 0o600) -> Node:  # noqa: N802
    return Node(tarfile.BLKTYPE, device=(major, minor), mode=mode)


def Fifo(mode: int = 0o644) -> Node:  # noqa: N802
    return Node(tarfile.FIFOTYPE, mode=mode)


Members: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]
"""Names to Nodes or strings; pairs, where a name comes twice."""


def layer(members: Members, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return the bytes of a tar of these members, in order.

    A plain string is a file's content; a name that ends in a slash is a directory.
    """
    out = io.BytesIO()
    pairs = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for name, value in pairs:
            if isinstance(value, str):
                node = Dir() if name.endswith("/") else File(value)
            else:
                node = value
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = node.type, node.target, node.mode
            info.uid, info.gid, info.mtime = node.uid, node.gid, node.mtime
            info.devmajor, info.devminor = node.device
            info.size = len(node.content)
            info.pax_headers = {
                f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
                for key, value in node.xattrs.items()
            }
            tar.addfile(info, io.BytesIO(node.content))
    return out.getvalue()


def image_of(layers: Iterable[bytes], folder: Path) -> Image:
    """Return an image of these layers, their bytes in files of `folder`."""
    made = []
    for number, content in enumerate(layers):
        digest = hashlib.sha256(content).hexdigest()
        path = folder / f"{number}-{digest[:12]}.tar"
        path.write_bytes(content)
        made.append(Layer(f"sha256:{digest}", Blob(path, 0, len(content))))
    return Image("sha256:" + "0" * 64, ("test:latest",), b"{}", b"[]", tuple(made))


def fs_of(layers: Iterable[bytes], folder: Path, view: str | None = None) -> ImageFs:
    """Return the file system of an image of these layers; `folder` takes tars and indexes."""
    index_dir = folder / "indexes"
    index_dir.mkdir(exist_ok=True)
    return image_fs(image_of(layers, folder), index_dir, view)


def resolve(fs: FileSystem, path: str) -> Attr | None:
    """Return the attributes of what a path leads to, without following links."""
    attr: Attr | None = fs.getattr(ROOT_ID)
    for name in filter(None, path.split("/")):
        assert attr is not None
        attr = fs.lookup(attr.node, name.encode("utf-8", "surrogateescape"))
        if attr is None:
            return None
    return attr


def read(fs: FileSystem, path: str) -> bytes:
    """Return a file's whole content."""
    attr = resolve(fs, path)
    assert attr is not None, path
    return fs.read(attr.node, 0, attr.size)


def paths(fs: FileSystem, top: str = "") -> dict[str, Attr]:
    """Return the attributes of all that lies below `top`, by path from there.

    Each entry is also looked up by its name, and must be the same both ways.
    """
    start = resolve(fs, top)
    assert start is not None, top
    found: dict[str, Attr] = {}
    queue = [("", start)]
    while queue:
        prefix, directory = queue.pop()
        for entry in fs.listdir(directory.node):
            path = prefix + entry.name.decode("utf-8", "surrogateescape")
            assert fs.lookup(directory.node, entry.name) == entry.attr, path
            assert fs.getattr(entry.attr.node) == entry.attr, path
            found[path] = entry.attr
            if stat.S_ISDIR(entry.attr.mode):
                queue.append((path + "/", entry.attr))
    return found


def shown(fs: FileSystem, top: str = "rootfs") -> dict[str, str]:
    """Return what lies below `top`, as `layer` would take it: directories by a trailing slash,
    files by content, links as `-> target`, anything else by its type's letter.
    """
    view = {}
    for path, attr in paths(fs, top).items():
        kind = stat.S_IFMT(attr.mode)
        if kind == stat.S_IFDIR:
            view[path + "/"] = ""
        elif kind == stat.S_IFLNK:
            view[path] = "-> " + fs.readlink(attr.node).decode("utf-8", "surrogateescape")
        elif kind == stat.S_IFREG:
            try:
                view[path] = fs.read(attr.node, 0, attr.size).decode("utf-8", "surrogateescape")
            except OSError as error:
                view[path] = f"!{error.errno}"
        else:
            view[path] = stat.filemode(attr.mode)[0]
    return view
