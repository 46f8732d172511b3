"""What POSIX, and Linux, have a read-only file system do: one list of checks for any driver.

Each check takes the path of a tree made from `CONTENT` and mounted read-only, nosuid and nodev,
and asks it by real system calls, as root. `write_tree` makes that tree on a disk, which is the
reference: the list must hold there as well.
"""

import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import select
import stat
import struct
import subprocess
import tarfile
import tempfile
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.support.tars import Block, Char, Dir, Fifo, File, Hard, Node, Sym

_BIG = b"".join(struct.pack("<I", number * 2654435761 % 2**32) for number in range(75_000))
_LONGEST = "n" * 255
_DEEP = list(itertools.accumulate((f"deep{level}" for level in range(40)), "{}/{}".format))

# Parents first; a name with a trailing slash is a directory, as in tests.tars.layer.
CONTENT: dict[str, Any] = {
    "./": Dir(0o755, mtime=1_500_000_000.5),
    "empty": File("", mtime=0),
    "hello": File("hello\n", 0o640, uid=1000, gid=1001, mtime=1_600_000_000.25),
    "page": File(bytes(range(256)) * 16, mtime=-1000.5),
    "page+1": File(bytes(range(256)) * 16 + b"!", mtime=4_102_444_800.125),
    "big": File(_BIG),
    "setuid": File("x", 0o4755),
    "secret": File("s", 0o000),
    "run": File("#!/bin/sh\necho ran $1\n", 0o755),
    "twin": Hard("hello"),
    "dir/": Dir(0o750, uid=3, gid=4, mtime=1_234_567_890.75),
    "dir/inner": File("inner"),
    "dir/third": Hard("hello"),
    "dir/none/": Dir(0o1777),
    "link": Sym("dir/inner", mtime=1_000_000_000),
    "dirlink": Sym("dir"),
    "dangling": Sym("no/such/name"),
    "loop": Sym("pool"),
    "pool": Sym("loop"),
    "longlink": Sym("./" * 500 + "hello"),
    "fifo": Fifo(0o622),
    "null": Char(1, 3, 0o666),
    "disk": Block(259, 1_000_000),
    "xattrs": File("", xattrs={"user.short": b"v", "user.long": b"l" * 1000, "user.empty": b""}),
    _LONGEST: File("longest"),
    "caf\udce9 \n\\": File("odd name"),
    "w/": "",
    **{f"w/{number:03}": "" for number in range(300)},
    **{f"{path}/": "" for path in _DEEP},
}
_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = _libc.telldir.restype = ctypes.c_long
_libc.opendir.restype = _libc.readdir64.restype = ctypes.c_void_p
_D_NAME = 19
"""Where the name of a struct dirent64 begins (readdir(3))."""
_SYS_GETDENTS64 = {"x86_64": 217, "aarch64": 61, "riscv64": 61}.get(os.uname().machine, 0)
_AT_FDCWD = -100


def node_of(name: str) -> Node:
    """Return what `CONTENT` says of a name; hard links are what they link to."""
    value = CONTENT[name]
    if not isinstance(value, Node):
        return Dir() if name.endswith("/") else File(value)
    return node_of(value.target) if value.type == tarfile.LNKTYPE else value


def files() -> Iterator[tuple[str, bytes]]:
    """Return the regular files and what they hold."""
    for name in CONTENT:
        node = node_of(name)
        if node.type == tarfile.REGTYPE:
            yield name, node.content


def nanoseconds(node: Node) -> int:
    """Return a node's mtime as st_mtime_ns has it."""
    return int(Fraction(node.mtime) * 10**9)


def write_tree(root: Path) -> None:
    """Make the tree in a directory of a disk; as root, since there are devices in it."""
    for name, value in CONTENT.items():
        path = root / name
        if isinstance(value, Node) and value.type == tarfile.LNKTYPE:
            os.link(root / value.target, path)
            continue
        node = node_of(name)
        if node.type == tarfile.SYMTYPE:
            os.symlink(node.target, path)
        elif node.type == tarfile.DIRTYPE:
            path.mkdir(exist_ok=True)
        elif node.type == tarfile.REGTYPE:
            path.write_bytes(node.content)
        else:
            os.mknod(path, _TYPES[node.type], os.makedev(*node.device))
        os.chown(path, node.uid, node.gid, follow_symlinks=False)
        if node.type != tarfile.SYMTYPE:
            path.chmod(node.mode)
        for attribute, content in node.xattrs.items():
            os.setxattr(path, attribute, content)
    for name in reversed(CONTENT):
        mtime = nanoseconds(node_of(name))
        os.utime(root / name, ns=(mtime, mtime), follow_symlinks=False)


@contextmanager
def fails_with(number: int, what: str = "") -> Iterator[None]:
    """Expect an OSError of this errno."""
    failure: OSError | None = None
    try:
        yield
    except OSError as error:
        failure = error
    assert failure is not None, f"{what} went well, but {os.strerror(number)} was due"
    assert failure.errno == number, (what, failure)


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Have a file open as a descriptor."""
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def getdents(descriptor: int, size: int) -> list[tuple[bytes, int, int, int]]:
    """Return name, inode, offset and type of the entries that fit a buffer of `size` bytes."""
    buffer = ctypes.create_string_buffer(size)
    length = _libc.syscall(_SYS_GETDENTS64, descriptor, buffer, size)
    if length < 0:
        raise OSError(ctypes.get_errno(), "getdents64")
    entries, start = [], 0
    while start < length:
        ino, offset, record, kind = struct.unpack_from("=QqHB", buffer, start)
        name = buffer.raw[start + 19 : start + record].split(b"\0", 1)[0]
        entries.append((name, ino, offset, kind))
        start += record
    return entries


def all_dents(path: Path, size: int) -> list[tuple[bytes, int, int, int]]:
    """Return a whole directory, read with buffers of `size` bytes."""
    with opened(path, os.O_DIRECTORY) as directory:
        return list(itertools.chain.from_iterable(iter(lambda: getdents(directory, size), [])))


def _tree_has_all_names_and_no_other(root: Path) -> None:
    found = {"./"}
    for folder, folders, others in os.walk(root):
        prefix = os.path.relpath(folder, root) + "/"
        prefix = "" if prefix == "./" else prefix
        for name in folders + others:
            is_folder = stat.S_ISDIR(os.lstat(root / prefix / name).st_mode)
            found.add(f"{prefix}{name}/" if is_folder else f"{prefix}{name}")
    assert found == set(CONTENT)


def _stat_tells_what_was_stored(root: Path) -> None:
    for name in CONTENT:
        node, found = node_of(name), os.lstat(root / name)
        mode = 0o777 if node.type == tarfile.SYMTYPE else node.mode
        assert found.st_mode == _TYPES[node.type] | mode, name
        assert (found.st_uid, found.st_gid) == (node.uid, node.gid), name
        assert found.st_mtime_ns == nanoseconds(node), name
        if node.type == tarfile.REGTYPE:
            assert found.st_size == len(node.content), name
        if node.type == tarfile.SYMTYPE:
            assert found.st_size == len(node.target), name
        if node.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == node.device, name


def _stat_by_name_and_by_descriptor_agree(root: Path) -> None:
    for name in ("hello", "dir/", "big", _DEEP[-1]):
        with opened(root / name) as descriptor:
            assert os.fstat(descriptor) == os.stat(root / name)


def _hard_links_are_one_inode(root: Path) -> None:
    names = ("hello", "twin", "dir/third")
    found = [os.lstat(root / name) for name in names]
    assert len({(it.st_dev, it.st_ino) for it in found}) == 1
    assert {it.st_nlink for it in found} == {3}
    assert os.lstat(root / "big").st_nlink == 1


def _inode_numbers_are_unique_and_those_of_the_listing(root: Path) -> None:
    seen: dict[int, str] = {}
    for folder, _, _ in os.walk(root):
        for name, ino, _, kind in all_dents(Path(folder), 32768):
            found = os.lstat(os.path.join(os.fsencode(folder), name))
            assert kind == stat.S_IFMT(found.st_mode) >> 12
            if name == b".." and folder == str(root):
                continue  # leads out of the mount
            assert ino == found.st_ino, name
            if not stat.S_ISDIR(found.st_mode) and found.st_nlink == 1:
                assert ino not in seen, (name, seen[ino])
                seen[ino] = os.fsdecode(name)


def _small_buffers_list_each_name_once(root: Path) -> None:
    expected = {b".", b".."} | {b"%03d" % number for number in range(300)}
    for size in (24, 25, 32, 48, 100, 1000, 4096, 65536):
        names = [name for name, *_ in all_dents(root / "w", size)]
        assert len(names) == len(set(names)) == len(expected), size
        assert set(names) == expected, size


def _a_buffer_too_small_for_an_entry_is_invalid(root: Path) -> None:
    with opened(root / "w", os.O_DIRECTORY) as directory, fails_with(errno.EINVAL):
        getdents(directory, 23)


def _seeking_in_a_directory_goes_on_where_it_was(root: Path) -> None:
    whole = all_dents(root / "w", 65536)
    with opened(root / "w", os.O_DIRECTORY) as directory:
        for position in (0, 1, 2, 3, 150, 17, 299, 300, 301, 100):
            os.lseek(directory, whole[position][2], os.SEEK_SET)
            following = getdents(directory, 24)
            expected = whole[position + 1 : position + 2]
            assert [it[0] for it in following] == [it[0] for it in expected], position
        os.lseek(directory, 0, os.SEEK_SET)
        assert [it[0] for it in getdents(directory, 65536)] == [it[0] for it in whole]


def _telldir_and_seekdir_go_back(root: Path) -> None:
    directory = ctypes.c_void_p(_libc.opendir(os.fsencode(root / "w")))
    assert directory
    places, names = [], []
    while entry := _libc.readdir64(directory):
        names.append(ctypes.string_at(entry + _D_NAME))
        places.append(_libc.telldir(directory))
    assert sorted(names) == sorted([b".", b"..", *(b"%03d" % number for number in range(300))])
    for at in (0, 1, 150, 17, 298, 299, 300, 2):
        _libc.seekdir(directory, ctypes.c_long(places[at]))
        assert _libc.telldir(directory) == places[at]
        assert ctypes.string_at(_libc.readdir64(directory) + _D_NAME) == names[at + 1], at
    _libc.seekdir(directory, ctypes.c_long(places[301]))
    assert not _libc.readdir64(directory)
    _libc.rewinddir(directory)
    assert ctypes.string_at(_libc.readdir64(directory) + _D_NAME) == names[0]
    assert _libc.closedir(directory) == 0


def _an_empty_directory_holds_itself_and_its_parent(root: Path) -> None:
    assert {name for name, *_ in all_dents(root / "dir/none", 4096)} == {b".", b".."}
    assert os.listdir(root / "dir/none") == []


def _missing_names_are_missing(root: Path) -> None:
    for name in ("nothing", "dir/nothing", "nothing/below", "w/300", "dangling", "dangling/x"):
        for _ in range(2):  # the second answer comes from the kernel's cache
            with fails_with(errno.ENOENT):
                os.stat(root / name)


def _a_file_is_no_directory(root: Path) -> None:
    for name in ("hello/x", "hello/", "hello/.", "hello/..", "link/x", "null/x", "fifo/"):
        with fails_with(errno.ENOTDIR):
            os.stat(os.path.join(root, name))
    with fails_with(errno.ENOTDIR):
        os.open(root / "hello", os.O_DIRECTORY)
    with fails_with(errno.ENOTDIR):
        os.listdir(root / "hello")


def _a_name_may_have_255_bytes_and_not_256(root: Path) -> None:
    assert (root / _LONGEST).read_bytes() == b"longest"
    for name in ("m" * 255, "dir/" + "m" * 255):
        with fails_with(errno.ENOENT):
            os.stat(root / name)
    for name in ("m" * 256, "dir/" + "m" * 1000, "x/" * 2048):
        with fails_with(errno.ENAMETOOLONG):
            os.stat(root / name)


def _names_are_bytes(root: Path) -> None:
    assert (root / "caf\udce9 \n\\").read_bytes() == b"odd name"
    assert b"caf\xe9 \n\\" in os.listdir(os.fsencode(root))


def _links_are_read_and_followed(root: Path) -> None:
    for name in CONTENT:
        node = node_of(name)
        if node.type == tarfile.SYMTYPE:
            for _ in range(2):
                assert os.readlink(root / name) == node.target
    assert (root / "link").read_bytes() == b"inner"
    assert (root / "longlink").read_bytes() == b"hello\n"
    assert (root / "dirlink/inner").read_bytes() == b"inner"
    with fails_with(errno.EINVAL):
        os.readlink(root / "hello")


def _link_cycles_end(root: Path) -> None:
    for name in ("loop", "pool", "loop/x"):
        with fails_with(errno.ELOOP):
            os.stat(root / name)
    with fails_with(errno.ELOOP):
        os.open(root / "link", os.O_RDONLY | os.O_NOFOLLOW)


def _parents_are_found_from_below(root: Path) -> None:
    here = os.stat(root)
    assert os.stat(root / "dir/none/../..").st_ino == here.st_ino
    assert os.stat(os.path.join(root, _DEEP[-1], *[".."] * 40)).st_ino == here.st_ino
    with opened(root / _DEEP[-1], os.O_DIRECTORY) as directory:
        assert os.readlink(f"/proc/self/fd/{directory}") == str(root / _DEEP[-1])
        assert os.stat("../../..", dir_fd=directory).st_ino == os.stat(root / _DEEP[-4]).st_ino
    output = subprocess.run(["pwd", "-P"], cwd=root / _DEEP[-1], capture_output=True, check=True)
    assert os.fsdecode(output.stdout) == f"{root / _DEEP[-1]}\n"


def _files_read_whole(root: Path) -> None:
    for name, content in files():
        assert (root / name).read_bytes() == content, name


def _reads_at_every_boundary_agree(root: Path) -> None:
    for name in ("empty", "hello", "page", "page+1", "big"):
        content = node_of(name).content
        edges = {0, 1, 511, 512, 4095, 4096, 4097, 131071, 131072, len(content)}
        edges |= {edge + 1 for edge in edges} | {max(0, len(content) - 1), 2**40, 2**62}
        with opened(root / name) as descriptor:
            for offset, size in itertools.product(sorted(edges), (0, 1, 2, 4096, 200_000)):
                expected = content[offset : offset + size]
                assert os.pread(descriptor, size, offset) == expected, (name, offset, size)


def _directories_cannot_be_read_as_files(root: Path) -> None:
    with opened(root / "dir") as directory, fails_with(errno.EISDIR):
        os.read(directory, 1)


def _files_map_into_memory(root: Path) -> None:
    for name in ("hello", "page", "page+1", "big"):
        content = node_of(name).content
        with (
            opened(root / name) as descriptor,
            mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped,
        ):
            assert mapped[:] == content
        with (
            opened(root / name) as descriptor,
            mmap.mmap(descriptor, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as mapped,
        ):
            assert mapped[-1:] == content[-1:]


def _direct_reads_agree(root: Path) -> None:
    for name in ("page", "page+1", "big"):
        content = node_of(name).content
        with opened(root / name, os.O_RDONLY | os.O_DIRECT) as descriptor:
            for offset, size in ((0, 4096), (0, 8192), (4096, 4096), (0, 1 << 20), (1 << 20, 4096)):
                buffer = mmap.mmap(-1, size)
                length = os.preadv(descriptor, [buffer], offset)
                assert buffer[:length] == content[offset : offset + size], (name, offset, size)


def _other_ways_of_reading_agree(root: Path) -> None:
    content = node_of("big").content
    with opened(root / "big") as source, tempfile.TemporaryFile() as target:
        os.posix_fadvise(source, 0, 0, os.POSIX_FADV_WILLNEED)
        while os.sendfile(target.fileno(), source, None, 1 << 20):
            pass
        target.seek(0)
        assert target.read() == content
    with opened(root / "big") as source:
        read_end, write_end = os.pipe()
        moved = os.splice(source, write_end, 4096, offset_src=4096)
        assert os.read(read_end, 4096) == content[4096 : 4096 + moved]
        os.close(read_end)
        os.close(write_end)


def _seeking_finds_data_holes_and_the_end(root: Path) -> None:
    size = len(node_of("big").content)
    with opened(root / "big") as descriptor:
        assert os.lseek(descriptor, 0, os.SEEK_DATA) == 0
        assert os.lseek(descriptor, 5000, os.SEEK_DATA) == 5000
        assert os.lseek(descriptor, 0, os.SEEK_HOLE) == size
        assert os.lseek(descriptor, -1, os.SEEK_END) == size - 1
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails_with(errno.ENXIO):
                os.lseek(descriptor, size, whence)
        with fails_with(errno.EINVAL):
            os.lseek(descriptor, -1, os.SEEK_SET)


def _attributes_have_their_values_and_sizes(root: Path) -> None:
    path = os.fsencode(root / "xattrs")
    for name, value in node_of("xattrs").xattrs.items():
        assert os.getxattr(path, name) == value
        assert _libc.getxattr(path, name.encode(), None, 0) == len(value)
        buffer = ctypes.create_string_buffer(len(value) + 1)
        assert _libc.getxattr(path, name.encode(), buffer, len(value) + 1) == len(value)
        if len(value) > 1:
            assert _libc.getxattr(path, name.encode(), buffer, len(value) - 1) == -1
            assert ctypes.get_errno() == errno.ERANGE


def _what_is_open_never_goes_stale(root: Path) -> None:
    with opened(root / "dir/inner") as descriptor, opened(root / "dir", os.O_DIRECTORY) as folder:
        for _ in range(3):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(descriptor, 10, 0) == b"inner"
            assert os.stat("inner", dir_fd=folder) == os.fstat(descriptor)
            assert sorted(os.listdir(folder)) == ["inner", "none", "third"]
            with opened(Path(f"/proc/self/fd/{descriptor}")) as again:
                assert os.fstat(again) == os.fstat(descriptor)


def _attributes_are_listed(root: Path) -> None:
    path = os.fsencode(root / "xattrs")
    names = set(node_of("xattrs").xattrs)
    assert {name for name in os.listxattr(path) if name in names} == names
    length = _libc.listxattr(path, None, 0)
    assert length == sum(len(os.fsencode(name)) + 1 for name in os.listxattr(path))
    assert _libc.listxattr(path, ctypes.create_string_buffer(length), length - 1) == -1
    assert ctypes.get_errno() == errno.ERANGE


def _absent_attributes_are_absent(root: Path) -> None:
    for name in ("hello", "dir", "xattrs", "."):
        for attribute in ("user.nothing", "security.capability"):
            with fails_with(errno.ENODATA):
                os.getxattr(root / name, attribute)


def _access_says_what_root_may(root: Path) -> None:
    for name in ("hello", "secret", "dir", "link", "fifo", "null"):
        assert os.access(root / name, os.F_OK | os.R_OK), name
    for name in ("run", "setuid", "dir", "."):
        assert os.access(root / name, os.X_OK), name
    for name in ("hello", "secret", "fifo"):
        assert not os.access(root / name, os.X_OK), name
    assert not os.access(root / "nothing", os.F_OK)
    assert os.access(root / "fifo", os.W_OK)
    for name in ("hello", "dir", "."):
        assert _libc.access(os.fsencode(root / name), os.W_OK) == -1
        assert ctypes.get_errno() == errno.EROFS, name


def _programs_run(root: Path) -> None:
    result = subprocess.run([root / "run", "fast"], capture_output=True, check=True)
    assert result.stdout == b"ran fast\n"
    with fails_with(errno.EACCES):
        subprocess.run([root / "hello"], check=False)


def _devices_are_shut(root: Path) -> None:
    for name in ("null", "disk"):
        with fails_with(errno.EACCES):
            os.open(root / name, os.O_RDONLY)


def _fifos_work(root: Path) -> None:
    with opened(root / "fifo", os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        assert os.read(descriptor, 1) == b""


def _totals_say_read_only(root: Path) -> None:
    totals = os.statvfs(root)
    assert totals.f_namemax == 255
    assert totals.f_bsize >= 512
    assert totals.f_files > 0
    for flag in (os.ST_RDONLY, os.ST_NOSUID, os.ST_NODEV):
        assert totals.f_flag & flag
    with opened(root / "hello") as descriptor:
        assert os.fstatvfs(descriptor).f_namemax == 255


def _mutations(root: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    new, file, folder = root / "new", root / "hello", root / "dir"
    yield "open to write", lambda: os.open(file, os.O_WRONLY)
    yield "open to read and write", lambda: os.open(file, os.O_RDWR)
    yield "open to append", lambda: os.open(file, os.O_WRONLY | os.O_APPEND)
    yield "open to truncate", lambda: os.open(file, os.O_RDONLY | os.O_TRUNC)
    yield "create", lambda: os.open(new, os.O_CREAT | os.O_RDWR)
    yield "create exclusively", lambda: os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    yield "create without a name", lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR)
    yield "mkdir", new.mkdir
    yield "mknod", lambda: os.mknod(new, stat.S_IFREG | 0o600)
    yield "mkfifo", lambda: os.mkfifo(new)
    yield "symlink", lambda: os.symlink("target", new)
    yield "link", lambda: os.link(file, new)
    yield "unlink", file.unlink
    yield "rmdir", (root / "dir/none").rmdir
    yield "rename", lambda: file.rename(new)
    yield "rename over", lambda: file.rename(root / "big")
    yield "exchange", lambda: _renameat2(file, root / "big", 2)
    yield "chmod", lambda: file.chmod(0o600)
    yield "chown", lambda: os.chown(file, 1, 1)
    yield "lchown", lambda: os.lchown(root / "link", 1, 1)
    yield "utime", lambda: os.utime(file, (1, 1))
    yield "truncate", lambda: os.truncate(file, 0)
    yield "setxattr", lambda: os.setxattr(file, "user.new", b"v")
    yield "removexattr", lambda: os.removexattr(root / "xattrs", "user.short")


def _renameat2(source: Path, target: Path, flags: int) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def _nothing_can_be_changed(root: Path) -> None:
    before = os.lstat(root / "hello")
    for name, mutate in _mutations(root):
        with fails_with(errno.EROFS, name):
            mutate()
    after = os.lstat(root / "hello")
    assert after.st_mtime_ns == before.st_mtime_ns
    assert not (root / "new").exists()


def _descriptors_cannot_write(root: Path) -> None:
    with opened(root / "hello") as descriptor:
        for number, mutate in (
            (errno.EBADF, lambda: os.write(descriptor, b"x")),
            (errno.EBADF, lambda: os.posix_fallocate(descriptor, 0, 10)),
            (errno.EINVAL, lambda: os.ftruncate(descriptor, 0)),
            (errno.EROFS, lambda: os.fchmod(descriptor, 0o600)),
            (errno.EROFS, lambda: os.fchown(descriptor, 1, 1)),
            (errno.EROFS, lambda: os.setxattr(descriptor, "user.new", b"v")),
        ):
            with fails_with(number):
                mutate()


def _syncing_locking_and_polling_work(root: Path) -> None:
    with opened(root / "hello") as descriptor:
        os.fsync(descriptor)
        os.fdatasync(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        fcntl.lockf(descriptor, fcntl.LOCK_SH)
        assert select.select([descriptor], [], [], 10)[0] == [descriptor]
        with fails_with(errno.ENOTTY):
            fcntl.ioctl(descriptor, termios.TCGETS, bytes(100))
    with opened(root / "dir", os.O_DIRECTORY) as directory:
        os.fsync(directory)


def _file_handles_lead_back(root: Path) -> None:
    for name in ("hello", "dir/none", _DEEP[-1]):
        path = os.fsencode(root / name)
        handle = ctypes.create_string_buffer(struct.pack("=II", 128, 0) + bytes(128), 136)
        mount_id = ctypes.c_int()
        assert _libc.name_to_handle_at(_AT_FDCWD, path, handle, ctypes.byref(mount_id), 0) == 0
        with opened(root, os.O_DIRECTORY) as directory:
            descriptor = _libc.open_by_handle_at(directory, handle, os.O_RDONLY)
            assert descriptor >= 0, os.strerror(ctypes.get_errno())
            assert os.fstat(descriptor).st_ino == os.stat(path).st_ino
            os.close(descriptor)


def _many_readers_see_the_same(root: Path) -> None:
    failures: list[BaseException] = []

    def look() -> None:
        try:
            assert len(os.listdir(root / "w")) == 300
            _small_buffers_list_each_name_once(root)
            _files_read_whole(root)
            _stat_tells_what_was_stored(root)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


CHECKS: tuple[Callable[[Path], None], ...] = (
    _tree_has_all_names_and_no_other,
    _stat_tells_what_was_stored,
    _stat_by_name_and_by_descriptor_agree,
    _hard_links_are_one_inode,
    _inode_numbers_are_unique_and_those_of_the_listing,
    _small_buffers_list_each_name_once,
    _a_buffer_too_small_for_an_entry_is_invalid,
    _seeking_in_a_directory_goes_on_where_it_was,
    _telldir_and_seekdir_go_back,
    _an_empty_directory_holds_itself_and_its_parent,
    _missing_names_are_missing,
    _a_file_is_no_directory,
    _a_name_may_have_255_bytes_and_not_256,
    _names_are_bytes,
    _links_are_read_and_followed,
    _link_cycles_end,
    _parents_are_found_from_below,
    _files_read_whole,
    _reads_at_every_boundary_agree,
    _directories_cannot_be_read_as_files,
    _files_map_into_memory,
    _direct_reads_agree,
    _other_ways_of_reading_agree,
    _seeking_finds_data_holes_and_the_end,
    _what_is_open_never_goes_stale,
    _attributes_have_their_values_and_sizes,
    _attributes_are_listed,
    _absent_attributes_are_absent,
    _access_says_what_root_may,
    _programs_run,
    _devices_are_shut,
    _fifos_work,
    _totals_say_read_only,
    _nothing_can_be_changed,
    _descriptors_cannot_write,
    _syncing_locking_and_polling_work,
    _file_handles_lead_back,
    _many_readers_see_the_same,
)
