"""Read leases: a file that nobody can change for as long as somebody relies on it."""

import fcntl
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imagefs.host.lease import Lease
from tests.support.polling import soon

PATIENCE = 20

# Each wants to change the file, and waits until that may be.
WRITERS: dict[str, str] = {
    "open to write": "open(path, 'r+b').close()",
    "open to append": "open(path, 'ab').close()",
    "open to rewrite": "open(path, 'wb').close()",
    "truncate": "os.truncate(path, 1)",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def held(lease: Lease) -> bool:
    with lease.holding() as is_held:
        return is_held


def start(script: str, path: Path) -> "subprocess.Popen[bytes]":
    """Run a line of Python on a file, in a process of its own."""
    script = f"import os, sys; path = sys.argv[1]; {script}"
    return subprocess.Popen([sys.executable, "-c", script, path])


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_waits_for_who_relies_on_the_file_and_no_longer(name: str, file: Path) -> None:
    """Nothing is changed within the block; behind it the lease has gone, and stays gone."""
    with file.open("rb") as reader:
        lease = Lease(reader.fileno())
        with lease.holding() as is_held:
            assert is_held
            writer = start(WRITERS[name], file)
            assert soon(lambda: fcntl.fcntl(reader, fcntl.F_GETLEASE) != fcntl.F_RDLCK)
            assert not soon(lambda: writer.poll() is not None, within=0.1)
            assert os.pread(reader.fileno(), 99, 0) == b"content"
        assert writer.wait(PATIENCE) == 0
        assert not held(lease)


def test_readers_do_not_wait(file: Path) -> None:
    """A lease is in nobody's way who only looks, nor who takes the name away."""
    with file.open("rb") as reader:
        lease = Lease(reader.fileno())
        assert file.read_bytes() == b"content"
        file.chmod(0o600)
        file.unlink()
        assert held(lease)


def test_a_file_that_is_open_for_writing_gives_none(file: Path) -> None:
    """Who could write already would not be waited for."""
    with file.open("r+b"), file.open("rb") as reader:
        assert not held(Lease(reader.fileno()))


def test_a_lease_that_is_given_back_lets_others_write(file: Path) -> None:
    """It is not taken again."""
    with file.open("rb") as reader:
        lease = Lease(reader.fileno())
        lease.give_back()
        file.write_bytes(b"other")
        assert not held(lease)


def test_many_leases_on_one_file_all_give_way(file: Path) -> None:
    """Each layer of an archive has its own."""
    readers = [os.open(file, os.O_RDONLY) for _ in range(50)]
    leases = [Lease(reader) for reader in readers]
    assert all(map(held, leases))
    file.write_bytes(b"other")
    assert not any(map(held, leases))
    for reader in readers:
        os.close(reader)


def test_leases_go_with_their_files(file: Path) -> None:
    """Nobody waits for a lease that its holder has forgotten."""
    with file.open("rb") as reader:
        lease = Lease(reader.fileno())
        assert held(lease)
        del lease
        gc.collect()
    written = threading.Event()

    def write() -> None:
        file.write_bytes(b"other")
        written.set()

    threading.Thread(target=write, daemon=True).start()
    assert written.wait(PATIENCE)
