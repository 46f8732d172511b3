"""The index on disk: made once, found again, and never believed when it is not what was written."""

import errno
import gzip
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from struct import Struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagefs.errors import CorruptArchive, HostError
from imagefs.image.model import Blob, Image, Layer
from imagefs.index import cache as index_cache
from imagefs.index import reader, rows
from imagefs.store.store import Store
from imagefs.vfs.image_fs import ImageFs, image_fs
from tests.support.headers import END, file
from tests.support.opening import opened
from tests.support.saved import docker_save
from tests.support.tars import File, Hard, Sym, image_of, layer, paths, read, shown

TREE = {
    "d/": "",
    "d/f": "content",
    "d/g": Hard("d/f"),
    "d/big": File("b", xattrs={"user.k": b"v" * 500}),
    "l": Sym("d/f"),
    "missing": Hard("nowhere"),
    ".wh.": "",
    **{f"many/{number:04}": "" for number in range(1100)},
}
"""1109 rows, which take more than a block; and names, extras, links, foreign links, notes."""

WIDE = {f"{folder}/{number:04}": "" for folder in "abc" for number in range(1024)}
"""Three blocks of rows, the third of which nobody needs to open the image."""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image of one layer that is read in place, and not indexed yet."""
    return image_of([layer(TREE)], tmp_path)


@pytest.fixture
def wide(tmp_path: Path) -> Image:
    """As `image`, of more blocks."""
    return image_of([layer(WIDE)], tmp_path)


@pytest.fixture
def indexes(tmp_path: Path) -> Path:
    folder = tmp_path / "indexes"
    folder.mkdir()
    return folder


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Layer]:
    """The layers that were scanned in this process, in order."""
    done: list[Layer] = []
    real = index_cache.build

    def build(one: Layer, folder: Path) -> None:
        done.append(one)
        real(one, folder)

    monkeypatch.setattr(index_cache, "build", build)
    return done


def everything(image: Image, folder: Path) -> tuple[object, ...]:
    """Return all that the image's file system shows."""
    fs = image_fs(image, folder)
    seen = paths(fs)
    xattrs = {path: fs.listxattr(attr.node) for path, attr in seen.items()}
    return seen, shown(fs, "rootfs"), read(fs, "layers.txt"), xattrs, fs.statfs()


def the_index(folder: Path) -> Path:
    (path,) = folder.glob("*.idx")
    return path


def test_the_second_opening_scans_nothing(image: Image, indexes: Path, builds: list[Layer]) -> None:
    """An index that is there is used as it is, also by whoever names the layer again."""
    index_cache.build(image.layers[0], indexes)
    before = the_index(indexes).stat()
    first = everything(image, indexes)
    assert everything(image, indexes) == first
    assert len(builds) == 1
    assert the_index(indexes).stat().st_mtime_ns == before.st_mtime_ns


def test_layers_are_indexed_side_by_side(tmp_path: Path, indexes: Path) -> None:
    """`ensure` makes the indexes of all layers, each once, and leaves nothing else behind."""
    image = image_of([layer({f"f{n}": ""}) for n in range(5)], tmp_path)
    index_cache.ensure([*image.layers, *image.layers], indexes)
    assert len(list(indexes.iterdir())) == 5
    assert all(path.suffix == ".idx" for path in indexes.iterdir())


def test_a_stored_layer_is_known_by_its_digest_alone(tmp_path: Path, indexes: Path) -> None:
    """One index serves a stored layer wherever it lies and whatever its time."""
    tar = tmp_path / "a"
    tar.write_bytes(layer({"f": "x"}))
    shutil.copy(tar, tmp_path / "b")
    one, two = (
        Layer("sha256:1", Blob(tmp_path / name, 0, tar.stat().st_size), stored=True)
        for name in "ab"
    )
    assert index_cache.key_of(one) == index_cache.key_of(two)
    assert index_cache.key_of(one) != index_cache.key_of(Layer("sha256:2", one.blob, stored=True))


def test_an_archive_in_the_store_is_indexed_once(tmp_path: Path) -> None:
    """Layers of a compressed archive lie in a file of the store, whose times tell of its use."""
    (tmp_path / "app.tar.gz").write_bytes(gzip.compress(docker_save(layer({"a": "x"}))))
    store = Store(tmp_path / "cache")
    keys = []
    for _ in range(3):
        image = opened(tmp_path / "app.tar.gz", store)
        assert read(image_fs(image, store.index_dir), "rootfs/a") == b"x"
        keys += [index_cache.key_of(one) for one in image.layers]
        assert image.layers[0].blob is not None
        os.utime(image.layers[0].blob.path, ns=(1, image.layers[0].blob.path.stat().st_mtime_ns))
    assert len(set(keys)) == 1
    assert len(list(store.index_dir.glob("*.idx"))) == 1


def test_a_changed_archive_is_indexed_anew(image: Image, indexes: Path) -> None:
    """A layer read in place whose file has another size, time or inode has another index."""
    assert image.layers[0].blob
    path = image.layers[0].blob.path
    keys = {index_cache.key_of(image.layers[0])}
    os.utime(path, ns=(0, 1))
    keys.add(index_cache.key_of(image.layers[0]))
    os.utime(path, ns=(0, 2))
    keys.add(index_cache.key_of(image.layers[0]))
    shutil.copy2(path, path.with_suffix(".copy"))
    os.replace(path.with_suffix(".copy"), path)
    keys.add(index_cache.key_of(image.layers[0]))
    assert len(keys) == 4
    path.write_bytes(file(b"other") + END)
    changed = Layer("sha256:0", Blob(path, 0, path.stat().st_size))
    index_cache.ensure([changed], indexes)
    assert shown(image_fs(Image("", (), b"", b"", (changed,)), indexes)) == {"other": ""}


def test_parts_of_one_file_are_told_apart(tmp_path: Path) -> None:
    """Layers in one archive differ by where they lie in it."""
    tar = tmp_path / "outer"
    tar.write_bytes(file(b"a") + END + file(b"b") + END)
    keys = {
        index_cache.key_of(Layer("sha256:0", Blob(tar, offset, length)))
        for offset, length in ((0, 1536), (1536, 1536), (0, 3072))
    }
    assert len(keys) == 3


# Damage


def flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with path.open("r+b") as out:
            out.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
            byte = out.read(1)[0]
            out.seek(-1, os.SEEK_CUR)
            out.write(bytes([byte ^ 0x40]))

    return change


def cut(length: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        os.truncate(path, length if length >= 0 else path.stat().st_size + length)

    return change


def of_another_version(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8:12] = (rows.VERSION + 1).to_bytes(4, "little")
    path.write_bytes(data)


def of_another_layer(path: Path) -> None:
    """Put a whole and right index in place, of another layer."""
    tar = path.parent.parent / "other.tar"
    tar.write_bytes(layer({"foreign": "x"}))
    other = Layer("sha256:0", Blob(tar, 0, tar.stat().st_size))
    index_cache.build(other, path.parent)
    os.replace(index_cache.path_of(path.parent, index_cache.key_of(other)), path)


def of_another_owner(path: Path) -> None:
    os.chown(path, 12345, 12345)


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".away"))
    path.symlink_to(path.with_suffix(".away"))


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def append(path: Path) -> None:
    with path.open("ab") as out:
        out.write(b"more")


BLOCK = rows.BLOCK_BYTES
BEGIN = rows.HEADER_BYTES
DAMAGES: dict[str, Callable[[Path], None]] = {
    "the magic": flip(0),
    "the version": of_another_version,
    "the key": flip(20),
    "a count": flip(45),
    "the header's checksum": flip(rows.HEADER.size + 1),
    "the root's row": flip(BEGIN + 10),
    "a row in the first block": flip(BEGIN + 5000),
    "a row in the second block": flip(BEGIN + BLOCK + 5000),
    "the second block's first byte": flip(BEGIN + BLOCK),
    "the first block's last byte": flip(BEGIN + BLOCK - 1),
    "a name": flip(BEGIN + 64 * 1109 + 500),
    "the notes": flip(-20),
    "the last checksum": flip(-1),
    "cut to nothing": cut(0),
    "cut in the header": cut(100),
    "cut behind the header": cut(BEGIN),
    "cut in the rows": cut(BEGIN + BLOCK + 10),
    "cut by a byte": cut(-1),
    "longer than written": append,
    "another version": of_another_version,
    "another layer's": of_another_layer,
    "another owner's": of_another_owner,
    "a symbolic link": a_link,
    "a fifo": a_fifo,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_index_is_made_anew(
    name: str,
    image: Image,
    indexes: Path,
    builds: list[Layer],
    count: Callable[[str, int], None],
) -> None:
    """A file that is not the index that was written is replaced before anything of it is shown."""
    if DAMAGES[name] is of_another_owner and os.geteuid():
        pytest.skip("only root can give files away")
    index_cache.build(image.layers[0], indexes)
    right = everything(image, indexes)
    content = the_index(indexes).read_bytes()
    builds.clear()
    DAMAGES[name](the_index(indexes))
    assert everything(image, indexes) == right
    assert builds.count(image.layers[0]) == 1
    assert not the_index(indexes).is_symlink()
    assert the_index(indexes).read_bytes() == content
    count("damaged index files: ways", 1)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_at_all(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever bytes of an index change, what is shown does not."""
    folder = tmp_path_factory.mktemp("any")
    image = image_of([layer({"d/f": "x", "d/g": Hard("d/f"), "l": Sym("d")})], folder)
    index_cache.build(image.layers[0], folder)
    right = everything(image, folder)
    path = the_index(folder)
    content = bytearray(path.read_bytes())
    used = [*range(rows.HEADER.size + 4), *range(BEGIN, len(content))]
    for at in data.draw(st.lists(st.sampled_from(used), min_size=1, max_size=9)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    assert everything(image, folder) == right
    shutil.rmtree(folder)


# Damage while mounted

UNSEEN = BEGIN + BLOCK + BLOCK // 2
"""A place in the second block of rows, which opening an image does not look at."""


def test_damage_is_found_while_mounted(wide: Image, indexes: Path, builds: list[Layer]) -> None:
    """A block that turns out to be damaged when it is first looked at is renewed by then."""
    index_cache.build(wide.layers[0], indexes)
    right = shown(image_fs(wide, indexes), "rootfs")
    fs = image_fs(wide, indexes)
    builds.clear()
    flip(UNSEEN)(the_index(indexes))
    flip(BEGIN + 2 * BLOCK + 64)(the_index(indexes))
    assert shown(fs, "rootfs") == right
    assert len(builds) == 1


def test_damage_is_found_by_many_threads_at_once(
    wide: Image, indexes: Path, builds: list[Layer]
) -> None:
    """However many threads meet the damage, one renews the index and all see what is right."""
    index_cache.build(wide.layers[0], indexes)
    right = shown(image_fs(wide, indexes), "rootfs/b")
    fs = image_fs(wide, indexes)
    builds.clear()
    flip(UNSEEN)(the_index(indexes))
    found: list[dict[str, str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(shown(fs, "rootfs/b"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [right] * 6
    assert len(builds) == 1


def test_damage_that_cannot_be_made_good_is_an_io_error(wide: Image, indexes: Path) -> None:
    """Where index and archive are both gone, names are lost, and said to be."""
    index_cache.build(wide.layers[0], indexes)
    fs = image_fs(wide, indexes)
    flip(UNSEEN)(the_index(indexes))
    assert wide.layers[0].blob
    wide.layers[0].blob.path.unlink()
    with pytest.raises(OSError, match="damaged") as error:
        shown(fs, "rootfs")
    assert error.value.errno == errno.EIO


@pytest.mark.parametrize("length", [0, 100, BEGIN, BEGIN + BLOCK + 10])
def test_an_index_that_is_cut_while_mounted(
    length: int, wide: Image, indexes: Path, builds: list[Layer]
) -> None:
    """Not even what was never looked at ends the process: the index is made anew."""
    index_cache.build(wide.layers[0], indexes)
    right = shown(image_fs(wide, indexes), "rootfs")
    fs = image_fs(wide, indexes)
    builds.clear()
    cut(length)(the_index(indexes))
    assert shown(fs, "rootfs") == right
    assert len(builds) == 1


def test_what_was_read_is_forgotten_while_others_read(
    wide: Image, indexes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little may be kept of indexes, all threads see what is right, of every one."""
    monkeypatch.setattr(reader, "_MOST_LOADED", 2 * BLOCK)
    right = shown(image_fs(wide, indexes), "rootfs")
    opened = [image_fs(wide, indexes) for _ in range(2)]
    found: list[dict[str, str]] = []

    def look(fs: ImageFs) -> None:
        found.extend(shown(fs, "rootfs") for _ in range(3))

    threads = [threading.Thread(target=look, args=(fs,)) for fs in opened * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [right] * 12


def test_numbers_on_disk_have_one_byte_order() -> None:
    """An index is the same on every machine: each record says its order, and so do checksums."""
    records = [one for one in vars(rows).values() if isinstance(one, Struct)]
    assert len(records) > 5
    assert all(one.format.startswith("<") for one in records)
    source = Path(reader.__file__).read_text()
    assert ".cast(" not in source
    assert "frombytes" not in source


def test_a_file_rewritten_with_size_and_time_kept_is_indexed_anew(
    image: Image, indexes: Path
) -> None:
    """As `rsync --times --inplace` and `touch -r` leave it: the time of change tells."""
    index_cache.build(image.layers[0], indexes)
    assert image.layers[0].blob
    path = image.layers[0].blob.path
    status = path.stat()
    other = layer({"d/x": "other"})
    path.write_bytes(other.ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert shown(image_fs(image, indexes), "rootfs") == {"d/": "", "d/x": "other"}


def test_a_deleted_index_serves_on(image: Image, indexes: Path) -> None:
    """A mount keeps the index that it has open, whoever clears the cache."""
    index_cache.build(image.layers[0], indexes)
    right = everything(image, indexes)
    fs = image_fs(image, indexes)
    shutil.rmtree(indexes)
    assert shown(fs, "rootfs") == right[1]


# What cannot be indexed


def test_a_broken_layer_leaves_nothing_behind(tmp_path: Path, indexes: Path) -> None:
    """A layer that is no tar is an error from the worker processes, too, and no file is left."""
    image = image_of([layer({"f": ""}), b"rubbish" * 100], tmp_path)
    with pytest.raises(CorruptArchive, match="no tar header"):
        index_cache.ensure(image.layers, indexes)
    assert all(path.suffix == ".idx" for path in indexes.iterdir())
    assert len(list(indexes.iterdir())) <= 1


def test_where_nothing_can_be_written(image: Image, tmp_path: Path) -> None:
    """An index directory that is missing is the host's fault, and named."""
    with pytest.raises(HostError, match="cannot write the index"):
        index_cache.build(image.layers[0], tmp_path / "nowhere")


def test_an_archive_that_is_gone(image: Image, indexes: Path) -> None:
    """An archive that vanished since it was read is the host's fault, and named."""
    assert image.layers[0].blob
    image.layers[0].blob.path.unlink()
    with pytest.raises(HostError, match="No such file"):
        index_cache.ensure(image.layers, indexes)


def test_a_layer_that_the_archive_lacks(indexes: Path) -> None:
    """A layer without bytes is the archive's fault."""
    with pytest.raises(CorruptArchive, match="lacks layer sha256:77"):
        index_cache.ensure([Layer("sha256:77", None)], indexes)
