"""File systems in memory, for what is to be tested above a `FileSystem` without an image."""

import errno
import os
import stat
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from imagefs.filesystem import (
    NAME_MAX,
    ROOT_ID,
    Attr,
    Entry,
    ReadaheadCandidates,
    Statfs,
    check_asker,
)
from tests.support.tars import Dir, File, Node

_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


def node_of(name: str, value: Any) -> Node:
    """Return what `tests.support.tars.layer` would take the pair for."""
    if isinstance(value, Node):
        return value
    return Dir() if name.endswith("/") else File(value)


class MemFs:
    """The tree of the members, written as for `tests.support.tars.layer`; parents first."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._nodes: dict[int, Node] = {}
        self._links: dict[int, int] = {}
        self._children: dict[int, dict[bytes, int]] = {}
        self._parents: dict[int, int] = {}
        self._add(ROOT_ID, node_of("/", members.get("./", "")), ROOT_ID)
        for name, value in members.items():
            if name != "./":
                self._place(name.rstrip("/"), node_of(name, value))

    def _place(self, path: str, node: Node) -> None:
        head, _, tail = path.rpartition("/")
        parent = self.find(head)
        if node.type == tarfile.LNKTYPE:
            ino = self.find(node.target)
            self._links[ino] += 1
        else:
            ino = len(self._nodes) + 1
            self._add(ino, node, parent)
        self._children[parent][os.fsencode(tail)] = ino

    def _add(self, ino: int, node: Node, parent: int) -> None:
        self._nodes[ino] = node
        self._links[ino] = 1
        if node.type == tarfile.DIRTYPE:
            self._links[ino] = 2
            self._children[ino] = {}
            self._parents[ino] = parent
            if ino != ROOT_ID:
                self._links[parent] += 1

    def find(self, path: str) -> int:
        """Return the node that a path leads to."""
        node = ROOT_ID
        for name in filter(None, path.split("/")):
            node = self._children[node][os.fsencode(name)]
        return node

    def _directory(self, node: int) -> dict[bytes, int]:
        if node not in self._children:
            raise OSError(errno.ENOTDIR if node in self._nodes else errno.ENOENT, "no directory")
        return self._children[node]

    def _node(self, node: int) -> Node:
        if node not in self._nodes:
            raise OSError(errno.ENOENT, "no such node")
        return self._nodes[node]

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        children = self._directory(parent)
        if name in (b".", b".."):
            return self.getattr(parent if name == b"." else self._parents[parent])
        return self.getattr(children[name]) if name in children else None

    def getattr(self, node: int) -> Attr:
        it = self._node(node)
        size = len(os.fsencode(it.target)) if it.type == tarfile.SYMTYPE else len(it.content)
        seconds, nanoseconds = divmod(int(Fraction(it.mtime) * 10**9), 10**9)
        return Attr(
            node,
            node,
            _TYPES[it.type] | it.mode,
            self._links[node],
            it.uid,
            it.gid,
            os.makedev(*it.device),
            size,
            -(-size // 512),
            seconds,
            nanoseconds,
        )

    def listdir(self, node: int) -> Sequence[Entry]:
        return [Entry(name, self.getattr(ino)) for name, ino in self._directory(node).items()]

    def readlink(self, node: int) -> bytes:
        if self._node(node).type != tarfile.SYMTYPE:
            raise OSError(errno.EINVAL, "not a symbolic link")
        return os.fsencode(self._node(node).target)

    def read(self, node: int, offset: int, size: int) -> bytes:
        return self._node(node).content[offset : offset + size]

    def with_extent(
        self, node: int, offset: int, size: int, take: Callable[[int, int, int], None]
    ) -> bool:
        return False

    def readahead_candidates(self, node: int, most: int) -> ReadaheadCandidates:
        return ReadaheadCandidates()

    def seek(self, node: int, offset: int, whence: int) -> int:
        length = len(self._node(node).content)
        if offset >= length:
            raise OSError(errno.ENXIO, "beyond the end")
        return offset if whence == os.SEEK_DATA else length

    def getxattr(self, node: int, name: bytes) -> bytes | None:
        return self._node(node).xattrs.get(os.fsdecode(name))

    def listxattr(self, node: int) -> Sequence[bytes]:
        return [os.fsencode(name) for name in self._node(node).xattrs]

    def statfs(self) -> Statfs:
        blocks = sum(-(-len(node.content) // 4096) for node in self._nodes.values())
        return Statfs(4096, blocks, len(self._nodes), NAME_MAX)

    def is_stable(self, node: int) -> bool:
        return True

    def adjust_lookups(self, nodes: Iterable[int], count: int) -> None:
        """Nothing here waits for the kernel to let go of it."""

    def watch(self, tell_gone: Callable[[int, bytes], None]) -> None:
        """Nothing here goes without being looked at."""


class LiveFs(MemFs):
    """A tree that changes: steered by what lies in a folder of the host.

    `changing/` has the names of `<control>/names/`. Looking into `slow/` takes until there is a
    file `<control>/gate`, even for who has left if there is a `<control>/stubborn`. `calm/` never
    changes. What the kernel refers to is noted in `<control>/references`: a line has a node and a
    count.
    """

    def __init__(self, control: Path) -> None:
        super().__init__(
            {"changing/": "", "slow/": "", "slow/inside": "at last", "calm/": "", "calm/file": "."}
        )
        self._names = control / "names"
        self._control = control
        self._gate = control / "gate"
        self._changing, self._slow, self._calm = map(self.find, ("changing", "slow", "calm"))

    def _changing_names(self) -> Iterator[tuple[bytes, int]]:
        for name in sorted(os.listdir(self._names)):
            yield os.fsencode(name), 1_000_000 + os.stat(self._names / name).st_ino

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        if parent == self._slow:
            self._wait()
        if parent != self._changing or name in (b".", b".."):
            return super().lookup(parent, name)
        ino = dict(self._changing_names()).get(name)
        return None if ino is None else self.getattr(ino)

    def getattr(self, node: int) -> Attr:
        if node > 1_000_000:
            return Attr(node, node, stat.S_IFREG | 0o444, 1, 0, 0, 0, 0, 0, 0, 0)
        attr = super().getattr(node)
        if node == self._changing:
            seconds, nanoseconds = divmod(os.stat(self._names).st_mtime_ns, 10**9)
            attr = attr._replace(mtime=seconds, mtimensec=nanoseconds)
        return attr

    def listdir(self, node: int) -> Sequence[Entry]:
        if node == self._slow:
            self._wait()
        if node != self._changing:
            return super().listdir(node)
        return [Entry(name, self.getattr(ino)) for name, ino in self._changing_names()]

    def is_stable(self, node: int) -> bool:
        return node >= self._calm and node <= 1_000_000

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while not self._gate.exists() and time.monotonic() < deadline:
            if not (self._control / "stubborn").exists():
                check_asker()
            time.sleep(0.01)

    def adjust_lookups(self, nodes: Iterable[int], count: int) -> None:
        with (self._control / "references").open("a") as file:
            file.writelines(f"{node} {count}\n" for node in nodes)


class StuckFs(LiveFs):
    """A tree that never changes, where reading `slow/inside` and what LiveFs calls slow is."""

    def read(self, node: int, offset: int, size: int) -> bytes:
        if node == self.find("slow/inside"):
            self._wait()
        return super().read(node, offset, size)

    def is_stable(self, node: int) -> bool:
        return True
