"""Odd, huge and hostile layers on real mounts, looked at with the tools that people use."""

import errno
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagefs.fuse.libfuse_library import load
from tests.support import samples
from tests.support.headers import END, content, file, header, long_name, pax
from tests.support.mounted import COMMAND, imagefs, mounted
from tests.support.needs import need_fuse, need_tool
from tests.support.serving import DRIVERS
from tests.support.sparsetars import SPARSE_WRITERS
from tests.support.tars import Dir, Hard, layer

GIB = 1 << 30
TIB = 1 << 40
DATA = {0: b"first", 5 * GIB: b"middle", 9 * GIB + 4096: b"far"}
SIZE = 12 * GIB + 5


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Each of the drivers."""
    need_fuse(request.param)
    return str(request.param)


def archive_of(folder: Path, *layers: bytes) -> Path:
    """Return a `docker save` of layers."""
    image = samples.SampleImage(tuple(layers))
    return samples.write(folder / "image.tar", samples.docker_20(image))


def output(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, check=True)
    return done.stdout.decode()


# Sparse files


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sparse file on the disk, and an archive of a layer for each format that holds it."""
    folder = tmp_path_factory.mktemp("sparse")
    for program in ("tar", "bsdtar"):
        need_tool(program, "tar libarchive-tools")
    layers = []
    for name, command in SPARSE_WRITERS.items():
        with (folder / name).open("wb") as out:
            out.truncate(SIZE)
            for at, data in DATA.items():
                out.seek(at)
                out.write(data)
        subprocess.run([*command, "-cf", "layer.tar", name], cwd=folder, check=True)
        layers.append((folder / "layer.tar").read_bytes())
    hole = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]
    hole += [(b"GNU.sparse.realsize", b"%d" % TIB), (b"GNU.sparse.name", b"tebibyte")]
    map_of_none = content(b"0\n".ljust(512, b"\0"))
    layers.append(pax(hole) + header(b"GNUSparseFile.0/t", size=512) + map_of_none + END)
    return folder, archive_of(folder, *layers)


def test_sparse_files_are_sparse_to_every_tool(
    sparse: tuple[Path, Path], driver: str, tmp_path: Path
) -> None:
    """`du` counts the data alone, `cp` copies no hole, and all formats hold the same 12 GiB."""
    folder, archive = sparse
    with mounted(archive, tmp_path / "mnt", f"--driver={driver}") as place:
        for name in SPARSE_WRITERS:
            seen, real = place / "rootfs" / name, folder / name
            assert seen.stat().st_size == SIZE
            assert int(output("du", "--block-size=1", seen).split()[0]) <= 1 << 20
            for at, data in DATA.items():
                assert pread(seen, len(data) + 9, at) == data + bytes(9)
            assert pread(seen, 1 << 20, 10 * GIB) == bytes(1 << 20)
            if driver == "native" or load().is_3:
                # libfuse 2 knows no lseek: holes are found by whoever reads them.
                check_copy(seen, real, tmp_path / "copy")


def pread(path: Path, size: int, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def check_copy(seen: Path, real: Path, copy: Path) -> None:
    """Check that holes are found by those who look for them, and are none of the data."""
    for mode in ("auto", "always"):
        subprocess.run(["cp", f"--sparse={mode}", seen, copy], check=True, timeout=30)
        assert copy.stat().st_size == SIZE
        assert copy.stat().st_blocks * 512 <= 1 << 20
        assert runs_of(copy) == runs_of(real)
        copy.unlink()
    # What the tar stored may begin with some of the zeros around the data.
    assert [data.strip(b"\0") for _, data in runs_of(seen)] == list(DATA.values())


def runs_of(path: Path) -> list[tuple[int, bytes]]:
    """Return what a file holds between its holes, without the zeros at either end."""
    descriptor = os.open(path, os.O_RDONLY)
    found: list[tuple[int, bytes]] = []
    end = 0
    try:
        while True:
            try:
                start = os.lseek(descriptor, end, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO  # noqa: PT017
                return found
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            data = os.pread(descriptor, end - start, start)
            at = len(data) - len(data.lstrip(b"\0"))
            if data.strip(b"\0"):
                found.append((start + at, data.strip(b"\0")))
    finally:
        os.close(descriptor)


def test_a_tebibyte_takes_no_room_and_no_time(
    sparse: tuple[Path, Path], driver: str, tmp_path: Path
) -> None:
    """A file that is one hole of 1 TiB is stated, measured, read at its end, and copied at once."""
    with mounted(sparse[1], tmp_path / "mnt", f"--driver={driver}") as place:
        hole = place / "rootfs/tebibyte"
        assert hole.stat().st_size == TIB
        assert output("du", "-k", hole).split()[0] == "0"
        assert output("du", "-B1", "--apparent-size", hole).split()[0] == str(TIB)
        assert pread(hole, 100, TIB - 10) == bytes(10)
        assert pread(hole, 100, TIB) == b""
        if driver == "native":
            copy = tmp_path / "copy"
            subprocess.run(["cp", "--sparse=auto", hole, copy], check=True, timeout=30)
            assert (copy.stat().st_size, copy.stat().st_blocks) == (TIB, 0)


# Few bits


@pytest.fixture(scope="module")
def lister(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of 32 bits that lists a tree."""
    program = tmp_path_factory.mktemp("compat") / "list"
    source = Path(__file__).with_name("compat32.c")
    words = [need_tool("gcc", "gcc-multilib"), "-m32", "-o", program, source]
    built = subprocess.run(list(map(str, words)), capture_output=True, check=False)
    if built.returncode or subprocess.run([program, "/dev/fd"], check=False).returncode < 0:
        pytest.skip("programs of 32 bits cannot be built or run (apt install gcc-multilib)")
    return program


def test_programs_of_32_bits_see_everything(driver: str, lister: Path, tmp_path: Path) -> None:
    """Directories and files of all views have inode numbers that 32 bits hold, dot and dots too."""
    top = layer({"d/e/g": "2", "d/.wh.x": "", "c": Hard("a"), ".wh.b": ""})
    archive = archive_of(tmp_path, layer({"a": "1", "b": Hard("a"), "d/e/f": "", "d/x": ""}), top)
    with mounted(archive, tmp_path / "mnt", f"--driver={driver}") as place:
        lines = [line.split(" ", 2) for line in output(lister, place).splitlines()]
        seen = {path: (int(listed), int(said)) for listed, said, path in lines}
        assert set(seen) == set(output("find", place, "-mindepth", "1").split())
        assert all(seen[path] == (os.lstat(path).st_ino,) * 2 for path in seen)
        assert seen[f"{place}/rootfs/a"] == seen[f"{place}/rootfs/c"]


# Many of everything


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two directories of 100,000 entries, and one of directories 1,000 deep."""
    folder = tmp_path_factory.mktemp("wide")
    names = [b"%s/%06d" % (top, n * 7919 % 100_000) for top in (b"a", b"b") for n in range(100_000)]
    below = b"".join(file(name, b"x") for name in names) + END
    deep = "d/" * 1000
    above = layer({deep: Dir(0o700), deep + "f": "bottom", "a/.wh.000007": "", "a/new": ""})
    return archive_of(folder, below, above)


def test_wide_and_deep_directories(wide: Path, driver: str, tmp_path: Path) -> None:
    """`ls`, `find` and `tar` see all of 100,000 entries, and go 1,000 directories down."""
    with mounted(wide, tmp_path / "mnt", f"--driver={driver}") as place:
        root = place / "rootfs"
        expected = [f"{n:06}" for n in range(100_000) if n != 7] + ["new"]
        assert output("ls", root / "a").split() == expected
        assert len(output("find", root / "b", "-type", "f").splitlines()) == 100_000
        deepest = output("find", "d", "-type", "f", cwd=root).strip()
        assert deepest == "d/" * 1000 + "f"
        # A path of 2,001 bytes is one that the kernel takes; tar goes there by itself.
        assert (root / deepest).read_text() == "bottom"
        listed = subprocess.run(["tar", "-cC", root, "d"], capture_output=True, check=True).stdout
        assert listed.count(b"bottom") == 1


def test_many_threads_list_the_same_directories(wide: Path, driver: str, tmp_path: Path) -> None:
    """Threads that read two wide directories at once all see each name once, and nobody waits."""
    failures: list[BaseException] = []

    def look(folder: Path, last: str) -> None:
        try:
            names = os.listdir(folder)
            assert len(names) == len(set(names)) == 100_000
            assert last in names
            for name in names[::5000]:
                assert (folder / name).stat().st_size in (0, 1)
        except BaseException as failure:
            failures.append(failure)

    with mounted(wide, tmp_path / "mnt", f"--driver={driver}") as place:
        ways = [(place / "rootfs/a", "new"), (place / "rootfs/b", "099999")]
        threads = [threading.Thread(target=look, args=way) for way in ways * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
    assert not failures, [(type(one), str(one)[:200]) for one in failures]


def test_five_hundred_layers_are_mounted(driver: str, tmp_path: Path) -> None:
    """An image of 500 layers is mounted, with each layer and each snapshot a directory."""
    layers = [layer({"counter": f"{n}", f"own/{n:03}": f"{n}"}) for n in range(500)]
    archive = archive_of(tmp_path, *layers)
    with mounted(archive, tmp_path / "mnt", f"--driver={driver}") as place:
        assert (place / "rootfs/counter").read_text() == "499"
        assert len(os.listdir(place / "rootfs/own")) == 500
        snapshots = sorted(os.listdir(place / "snapshots"))
        assert len(snapshots) == len(os.listdir(place / "layers")) == 500
        for number in (0, 250, 499):
            snapshot = place / "snapshots" / snapshots[number]
            assert (snapshot / "counter").read_text() == f"{number}"
            assert len(os.listdir(snapshot / "own")) == number + 1
            assert os.listdir(place / "layers" / snapshots[number] / "own") == [f"{number:03}"]
        assert len((place / "layers.txt").read_text().splitlines()) == 501


def test_too_few_descriptors_are_one_line(tmp_path: Path) -> None:
    """Where the system lets a daemon open fewer files than the layers take, the error says so."""
    archive = archive_of(tmp_path, *(layer({f"{n}": ""}) for n in range(100)))
    place = tmp_path / "mnt"
    place.mkdir()
    need_fuse()
    few = ["prlimit", "--nofile=150:150", *COMMAND, "mount", str(archive), str(place)]
    done = subprocess.run(few, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ulimit -n" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Names, seen in a terminal


def test_names_are_bytes_to_tools(driver: str, tmp_path: Path) -> None:
    """Odd names come through a mount byte for byte."""
    names = [b"new\nline", b"\x1b[2Jescape", b"\xff\xfe", b"\x07bell", b"back\\slash", b" "]
    tar = b"".join(file(name, name) for name in names) + long_name(b"n" * 255) + file(b"f") + END
    with mounted(archive_of(tmp_path, tar), tmp_path / "mnt", f"--driver={driver}") as place:
        root = os.fsencode(place / "rootfs")
        assert sorted(os.listdir(root)) == sorted([*names, b"n" * 255])
        for name in names:
            with open(root + b"/" + name, "rb") as seen:
                assert seen.read() == name


ESCAPES = "\x1b[2J\x1b]0;t\x07\n\r\u202e\x9b31m"


def hostile_words() -> samples.Layout:
    """Return an archive that says escape sequences wherever it says something."""
    config = {
        "os": f"linux{ESCAPES}",
        "architecture": f"amd64{ESCAPES}",
        "config": {"Labels": {f"key{ESCAPES}": f"value{ESCAPES}"}},
        "rootfs": {"diff_ids": [samples.digest(samples.TOP)]},
        "history": [{"created_by": f"RUN {ESCAPES}"}],
    }
    entry = {"Config": f"c{ESCAPES}", "RepoTags": [f"a{ESCAPES}:b"], "Layers": [f"l{ESCAPES}"]}
    return {
        "manifest.json": json.dumps([entry]).encode(),
        f"c{ESCAPES}": json.dumps(config).encode(),
        f"l{ESCAPES}": samples.TOP,
        "oci-layout": b"{}",
    }


def cut_in(name: bytes) -> bytes:
    """Return a tar that ends inside a member of that name."""
    return file(b"etc/motd") + header(name, size=5000) + END


WORDS: dict[str, tuple[list[str], samples.Layout | bytes]] = {
    "layers": (["layers"], hostile_words()),
    "inspect": (["inspect"], hostile_words()),
    "mount": (["mount", "--image=none"], hostile_words()),
    "platform": (["mount", "--platform=none/none"], hostile_words()),
    "verify": (["mount", "--verify"], {**hostile_words(), f"l{ESCAPES}": samples.MIDDLE}),
    "missing": (["mount"], {**hostile_words(), f"l{ESCAPES}": None}),
    "cut": (["mount"], cut_in(b"n\x1b[2J\x07\n\xff")),
    "long": (["mount"], long_name(b"\x1b[2J\n\x9b" * 100) + file(b"f") + END),
}


STATUS = {"layers": 0, "inspect": 0, "mount": 2, "platform": 2}


@pytest.mark.parametrize("name", WORDS)
def test_the_command_line_shows_escapes_escaped(
    name: str, tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """Whatever an archive says, and whatever it is called, reaches the terminal as plain text."""
    words, content = WORDS[name]
    place = tmp_path / "mnt"
    place.mkdir()
    for called in ("plain", "odd\x1b[2J\x07"):
        path = samples.write(tmp_path / called, content)
        done = imagefs(*words, path, *([place] if words[0] == "mount" else []))
        assert done.returncode == STATUS.get(name, 1)
        said = done.stdout + done.stderr
        assert all(line.isprintable() for line in said.split("\n")), said
        assert "\\x1b" in said or (name, called) == ("mount", "plain")
        assert place.stat().st_dev == tmp_path.stat().st_dev
    count("hostile words on a terminal: commands", 1)


# An archive that changes while it is mounted


def truncate(path: Path) -> None:
    os.truncate(path, 4096)


def overwrite(path: Path) -> None:
    data = path.read_bytes()
    with path.open("r+b") as out:
        out.write(data.replace(b"s" * 5000, b"t" * 5000))


def rewrite(path: Path) -> None:
    path.write_bytes(samples.tar_of(samples.docker_20(samples.IMAGE)))


CHANGES = {"truncated": truncate, "overwritten": overwrite, "rewritten": rewrite}


@pytest.fixture
def mount_of_two(driver: str, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An archive, and where it is mounted: a file that somebody has read, and one that nobody."""
    tar = layer({"seen": "seen" * 1000, "secret": "s" * 500_000})
    archive = archive_of(tmp_path, tar)
    with mounted(archive, tmp_path / "mnt", f"--driver={driver}") as place:
        assert (place / "rootfs/seen").read_text() == "seen" * 1000
        yield archive, place / "rootfs"


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_archive_gives_io_errors(
    name: str, mount_of_two: tuple[Path, Path], count: Callable[[str, int], None]
) -> None:
    """What was not read before gives EIO by read and by mmap alike; the daemon goes on."""
    archive, root = mount_of_two
    before = archive.stat().st_mtime_ns
    CHANGES[name](archive)
    while archive.stat().st_mtime_ns == before:
        os.utime(archive)
    with pytest.raises(OSError, match="Input/output error"):
        (root / "secret").read_bytes()
    done = subprocess.run(["cat", root / "secret"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert sorted(os.listdir(root)) == ["secret", "seen"]
    assert (root / "secret").stat().st_size == 500_000
    try:
        assert (root / "seen").read_text() == "seen" * 1000
    except OSError as error:
        assert error.errno == errno.EIO  # noqa: PT017
    count("archives changed while mounted: for real", 1)


def test_a_deleted_archive_is_read_on(mount_of_two: tuple[Path, Path]) -> None:
    """The bytes that were mounted live as long as the mount."""
    archive, root = mount_of_two
    archive.unlink()
    archive.write_bytes(b"something else")
    assert (root / "secret").read_text() == "s" * 500_000
