"""Large READs that are answered from the archive's own pages."""

import errno
import fcntl
import json
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from imagefs.fuse.splice import Splicer
from tests.fuse.test_reads import counted
from tests.support import samples
from tests.support.memfs import MemFs
from tests.support.mounted import imagefs, mounted
from tests.support.tars import layer

PATIENCE = 60

CONTENT = random.Random(6).randbytes(3_000_001)
START = 777
"""Where the content begins in its file: in no page's beginning."""


class LendingFs(MemFs):
    """A file system of one file on disk, which need not be as long as it was said to be."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.length = len(CONTENT)

    def with_extent(
        self, node: int, offset: int, size: int, take: Callable[[int, int, int], None]
    ) -> bool:
        if node != 7:
            return False
        take(self.fd, START + offset, min(size, self.length - offset))
        return True


@pytest.fixture
def lending(tmp_path: Path) -> Iterator[LendingFs]:
    path = tmp_path / "content"
    path.write_bytes(b"x" * START + CONTENT)
    with path.open("rb") as file:
        yield LendingFs(file.fileno())


@pytest.fixture
def device(tmp_path: Path) -> Iterator[int]:
    """A file that takes the replies."""
    with (tmp_path / "device").open("w+b") as file:
        yield file.fileno()


def sent(device: int) -> bytes:
    """Return the reply that was sent, and forget it."""
    reply = os.pread(device, 4 << 20, 0)
    os.ftruncate(device, 0)
    os.lseek(device, 0, os.SEEK_SET)
    return reply


RANGES = [
    (0, 1),
    (0, 4096),
    (4095, 2),
    (1, 65536),
    (0, 524288),
    (123_457, 524288),
    (2_900_000, 524288),
]


def test_a_reply_is_the_header_and_the_bytes(lending: LendingFs, device: int) -> None:
    """Whatever part of a file it is, and wherever in a page that begins."""
    splicer = Splicer(device, lending)
    for unique, (offset, size) in enumerate(RANGES):
        assert splicer.answer(unique, 7, offset, size)
        content = CONTENT[offset : offset + size]
        assert sent(device) == struct.pack("<IiQ", 16 + len(content), 0, unique) + content
    splicer.close()


def test_what_cannot_be_lent_is_left_to_others(lending: LendingFs, device: int) -> None:
    """Nothing is sent, so that whoever answers answers once."""
    splicer = Splicer(device, lending)
    assert not splicer.answer(1, 8, 0, 4096)
    assert not splicer.answer(1, 7, 0, 1 << 20)  # more than the pipe holds
    assert sent(device) == b""
    splicer.close()


def test_a_file_that_ends_early_leaves_nothing_in_the_pipe(lending: LendingFs, device: int) -> None:
    """Half a reply is none, and the next one is whole."""
    splicer = Splicer(device, lending)
    lending.length += 1000
    assert not splicer.answer(1, 7, len(CONTENT) - 100_000, 200_000)
    assert sent(device) == b""
    assert splicer.answer(2, 7, 5, 100)
    assert sent(device) == struct.pack("<IiQ", 116, 0, 2) + CONTENT[5:105]
    splicer.close()


def test_a_device_that_takes_nothing_is_no_end(lending: LendingFs, tmp_path: Path) -> None:
    """The kernel may have given a request up; whoever answers it in the usual way learns of it."""
    path = tmp_path / "unwritable"
    path.touch()
    with path.open("rb") as device:
        splicer = Splicer(device.fileno(), lending)
        assert not splicer.answer(1, 7, 0, 4096)
        splicer.close()


def test_with_small_pipes_only_nothing_large_is_spliced(
    lending: LendingFs, device: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ordinary user's pipes may be many already; then READs are answered in the usual way."""
    real = fcntl.fcntl

    def refuse(fd: int, command: int, argument: Any = 0) -> Any:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    splicer = Splicer(device, lending)
    assert not splicer.answer(1, 7, 0, 131072)
    assert sent(device) == b""
    assert splicer.answer(2, 7, 0, 16384)
    splicer.close()


def test_a_large_file_is_not_taken_in_hand(tmp_path: Path) -> None:
    """Each byte is the layer's, read in order, in disorder or mapped, and no READ copies it."""
    text = CONTENT.hex()
    (tmp_path / "stored").touch()
    with counted(tmp_path, layer({"small": "small\n", "big": text})) as (mountpoint, reads):
        with (mountpoint / "rootfs/big").open("rb", buffering=0) as big:
            for offset in (3_500_000, 131_071, 0, 2_000_001):
                assert os.pread(big.fileno(), 1 << 20, offset).decode() == text[offset:][: 1 << 20]
        assert (mountpoint / "rootfs/big").read_text() == text
        assert (mountpoint / "rootfs/small").read_text() == "small\n"
        copied = [line for line in reads.read_text().splitlines() if line != "small"]
        assert sum(map(len, copied)) < len(text) // 4


def test_an_archive_in_place_is_copied(tmp_path: Path) -> None:
    """Somebody may change it, and what was lent cannot be looked at afterwards."""
    text = CONTENT.hex()
    with counted(tmp_path, layer({"big": text})) as (mountpoint, reads):
        assert (mountpoint / "rootfs/big").read_text() == text
        assert reads.stat().st_size >= len(text)


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK], ids=["waiting", "nonblocking"])
def test_nobody_who_writes_waits_for_a_stopped_daemon(flags: int, tmp_path: Path) -> None:
    """And who has been waiting for the daemon meanwhile gets no byte that is not the image's."""
    archive = tmp_path / "image.tar"
    tar = layer({f"f{number}": "m" * 1_000_000 for number in range(4)})
    samples.write(archive, samples.docker_20(samples.SampleImage((tar,))))
    foreign = archive.read_bytes().replace(b"m", b"f")
    with mounted(archive, tmp_path / "mnt") as place, ThreadPoolExecutor(4) as pool:
        listed = json.loads(imagefs("mounts", "--json").stdout)
        (pid,) = (one["pid"] for one in listed if one["mountpoint"] == str(place))
        os.kill(pid, signal.SIGSTOP)
        try:
            readers = [pool.submit(content_of, place / f"rootfs/f{number}") for number in range(4)]
            with open(os.open(archive, os.O_WRONLY | flags), "wb") as out:
                out.write(foreign)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert b"f" not in b"".join(reader.result(PATIENCE) for reader in readers)


def content_of(path: Path) -> bytes:
    """What a file holds; nothing where reading it is an I/O error."""
    try:
        return path.read_bytes()
    except OSError as error:
        assert error.errno == errno.EIO  # noqa: PT017
        return b""


@pytest.mark.parametrize("delay", [0.0, 0.0002, 0.001, 0.003, 0.01])
def test_an_archive_that_changes_meanwhile_gives_no_foreign_bytes(
    delay: float, tmp_path: Path
) -> None:
    """Who reads while another overwrites gets the mounted bytes or EIO; the other gets through."""
    archive = tmp_path / "image.tar"
    tar = layer({"big": "m" * 30_000_000, "other": "m" * 1_000_000})
    samples.write(archive, samples.docker_20(samples.SampleImage((tar,))))
    foreign = archive.read_bytes().replace(b"m", b"f")
    begun = threading.Event()

    def overwrite() -> None:
        begun.wait()
        time.sleep(delay)
        with archive.open("r+b") as out:
            out.write(foreign)

    with mounted(archive, tmp_path / "mnt") as place:
        writer = threading.Thread(target=overwrite)
        writer.start()
        found = bytearray()
        with (place / "rootfs/big").open("rb", buffering=0) as big:
            begun.set()
            try:
                while part := big.read(1 << 17):
                    found += part
            except OSError as error:
                assert error.errno == errno.EIO  # noqa: PT017
            else:
                assert len(found) == 30_000_000
        writer.join(PATIENCE)
        assert not writer.is_alive()
        assert found.count(b"m") == len(found)
        with pytest.raises(OSError, match="Input/output error"):
            (place / "rootfs/other").read_bytes()
