"""An image as a file system of fsspec, and what reads from it: pandas, pyarrow, duckdb."""

import errno
import gc
import hashlib
import io
import os
import pickle
import stat
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from imagefs.errors import UsageError
from tests.support.saved import docker_save
from tests.support.tars import Char, File, Sym, layer
from tests.test_readme import ROOT

fsspec = pytest.importorskip("fsspec", reason="fsspec is missing (pip install imagefs[fsspec])")
abstract = pytest.importorskip("fsspec.tests.abstract")

from imagefs.tree.spec import ImageFileSystem  # noqa: E402

ROWS = "name,size\none,1\ntwo,2\n"
BASE = layer(
    {
        "etc/": "",
        "etc/passwd": File("root:x:0:0\n", 0o640, uid=3, gid=4, mtime=5),
        "etc/link": Sym("passwd"),
        "etc/lost": Sym("nowhere"),
        "lib": Sym("usr/lib"),
        "usr/lib/so": "so",
        "null": Char(1, 3),
        "numbers": File(bytes(range(256))),
    }
)
TOP = layer({"data/": "", "data/one.csv": ROWS, "data/two.csv": "name,size\nthree,3\n"})


@pytest.fixture(autouse=True)
def _known() -> None:
    """Have fsspec know the protocol, also where this checkout is not what is installed."""
    fsspec.register_implementation("imagefs", ImageFileSystem, clobber=True)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "app.tar"
    path.write_bytes(docker_save(BASE, TOP, steps=("ADD base", "RUN top")))
    return path


@pytest.fixture
def image(archive: Path) -> ImageFileSystem:
    return ImageFileSystem(source=archive)


def test_installed_it_is_found_by_its_protocol() -> None:
    """What pyproject.toml declares for fsspec to find is this class."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    [(name, value)] = declared["fsspec.specs"].items()
    assert name == ImageFileSystem.protocol
    assert EntryPoint(name, value, "fsspec.specs").load() is ImageFileSystem


def test_paths_begin_with_a_view(image: ImageFileSystem) -> None:
    """All that a mount shows is there, by the names that a mount has."""
    assert set(image.ls("", detail=False)) == {
        "rootfs", "layers", "snapshots", "layers.txt", "config.json", "manifest.json"
    }  # fmt: skip
    assert image.cat("rootfs/etc/passwd") == b"root:x:0:0\n"
    assert image.glob("layers/*/data/*.csv") == [
        f"layers/{image.tree.layers[1]}/data/{name}.csv" for name in ("one", "two")
    ]
    assert image.find("rootfs/data") == ["rootfs/data/one.csv", "rootfs/data/two.csv"]
    assert not image.exists("rootfs/no")
    assert image.modified("rootfs/etc/passwd").timestamp() == 5


def test_what_is_known_of_a_path(image: ImageFileSystem) -> None:
    """Mode, owner, time, link target and layer; a link tells what it leads to."""
    found = image.info("imagefs://rootfs/etc/passwd")
    assert found["mode"] == stat.S_IFREG | 0o640
    said = [found[key] for key in ("name", "type", "size", "uid", "gid", "mtime", "islink")]
    assert said == ["rootfs/etc/passwd", "file", 11, 3, 4, 5, False]
    assert found["layer"] == image.tree.layers[0]
    link = image.info("rootfs/etc/link")
    said = [link[key] for key in ("type", "size", "islink", "destination")]
    assert said == ["file", 11, True, "passwd"]
    assert stat.S_ISLNK(link["mode"])
    assert image.info("rootfs/null")["type"] == "other"


def test_walks_go_through_no_link(image: ImageFileSystem) -> None:
    """A link to a directory is a directory to who names it, and a link to who lists it."""
    assert image.isdir("rootfs/lib")
    assert image.ls("rootfs/lib", detail=False) == ["rootfs/lib/so"]
    kinds = {one["name"]: one["type"] for one in image.ls("rootfs")}
    assert kinds["rootfs/lib"] == "link"
    assert "rootfs/lib/so" not in image.find("rootfs")
    assert {one["name"]: one["type"] for one in image.ls("rootfs/etc")}["rootfs/etc/lost"] == "link"


def test_ranges_are_slices(image: ImageFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range is what Python's slice would be, and takes one read."""
    content, reads = bytes(range(256)), []
    read = image.tree.fs.read

    def counted(*place: int) -> bytes:
        reads.append(place)
        return read(*place)

    monkeypatch.setattr(image.tree.fs, "read", counted)
    starts, ends = [0, 10, -5, 250, 20], [4, 20, None, 999, 10]
    got = image.cat_ranges(["rootfs/numbers"] * 5, starts, ends)
    assert got == [content[low:high] for low, high in zip(starts, ends, strict=True)]
    assert len(reads) == 5


def test_it_is_opened_through_chained_addresses(archive: Path) -> None:
    """As of tar:// and zip://, what is behind two colons is the archive, wherever it is."""
    with fsspec.open(f"imagefs://rootfs/etc/passwd::file://{archive}", "rt") as file:
        assert file.read() == "root:x:0:0\n"
    elsewhere = fsspec.filesystem("memory")
    elsewhere.pipe("/far/app.tar", archive.read_bytes())
    try:
        with fsspec.open("imagefs://rootfs/numbers::memory://far/app.tar") as file:
            assert file.read() == bytes(range(256))
    finally:
        elsewhere.rm("/far", recursive=True)
    with pytest.raises(UsageError, match="which image"):
        fsspec.filesystem("imagefs")


def test_what_was_fetched_goes_with_the_file_system(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No copy of an image stays behind, nor what was to be one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    far: dict[str, Any] = {"fo": "/far/app.tar", "target_protocol": "memory"}
    elsewhere = fsspec.filesystem("memory")
    elsewhere.pipe("/far/app.tar", archive.read_bytes())
    try:
        image = ImageFileSystem(**far)
        assert len(os.listdir(tmp_path / "temporary")) == 1
        assert image.cat("rootfs/etc/passwd") == b"root:x:0:0\n"
    finally:
        elsewhere.rm("/far", recursive=True)
    del image
    gc.collect()
    with pytest.raises(FileNotFoundError):
        ImageFileSystem(**far)
    gc.collect()
    assert os.listdir(tmp_path / "temporary") == []


def test_it_is_pickled(image: ImageFileSystem) -> None:
    """The other side opens the same source."""
    assert pickle.loads(pickle.dumps(image)).cat("rootfs/etc/link") == b"root:x:0:0\n"


WRITES: Mapping[str, Callable[[Any], object]] = {
    "open": lambda fs: fs.open("rootfs/new", "wb"),
    "append": lambda fs: fs.open("rootfs/numbers", "ab"),
    "exclusive": lambda fs: fs.open("rootfs/new", "xb"),
    "text": lambda fs: fs.write_text("rootfs/new", "x"),
    "pipe": lambda fs: fs.pipe("rootfs/new", b"x"),
    "put": lambda fs: fs.put(str(ROOT / "README.md"), "rootfs/new"),
    "touch": lambda fs: fs.touch("rootfs/numbers"),
    "mkdir": lambda fs: fs.mkdir("rootfs/new"),
    "makedirs": lambda fs: fs.makedirs("rootfs/new/er"),
    "rm": lambda fs: fs.rm("rootfs/numbers"),
    "rm_file": lambda fs: fs.rm_file("rootfs/numbers"),
    "rmdir": lambda fs: fs.rmdir("rootfs/data"),
    "copy": lambda fs: fs.copy("rootfs/numbers", "rootfs/new"),
    "mv": lambda fs: fs.mv("rootfs/numbers", "rootfs/new"),
}


@pytest.mark.parametrize("name", WRITES)
def test_nothing_can_be_written(name: str, image: ImageFileSystem) -> None:
    """Who tries is told, and not left to believe that it was done."""
    with pytest.raises(OSError, match="Read-only") as caught:
        WRITES[name](image)
    assert caught.value.errno == errno.EROFS


BULK = ("file1", "file2", "subdir/subfile1", "subdir/subfile2", "subdir/nesteddir/nestedfile")
EDGES = (
    "file1",
    "file2",
    *(
        f"subdir{number}/{name}"
        for number in range(2)
        for name in ("subfile1", "subfile2", "nesteddir/nestedfile")
    ),
)


class _Prepared(ImageFileSystem):
    """An image that holds already what one of the tests makes first."""

    def mkdir(self, path: str, *_: Any, **__: Any) -> None:  # type: ignore[override]
        assert self.isdir(path)

    def touch(self, path: str, *_: Any, **__: Any) -> None:  # type: ignore[override]
        assert self.isfile(path)


class TestGet(abstract.AbstractFixtures, abstract.AbstractGetTests):  # type: ignore[misc, name-defined]
    """fsspec's own tests of copying from a file system, of trees that are there already."""

    @pytest.fixture
    def fs(self, tmp_path: Path) -> ImageFileSystem:
        trees = {
            "bulk": dict.fromkeys(BULK, ""),
            "edges": dict.fromkeys(EDGES, ""),
            "prefix": {"subdir.txt": "", "subdir/subfile.txt": ""},
            "hashed": {f"{hashlib.md5(b'%d' % n).hexdigest()}.txt": str(n) for n in range(10)},
        }
        members = {
            f"{tree}/source/{path}": content
            for tree, files in trees.items()
            for path, content in files.items()
        }
        archive = tmp_path / "trees.tar"
        archive.write_bytes(docker_save(layer({**members, "src/file": ""})))
        return _Prepared(source=archive)

    @pytest.fixture
    def fs_path(self) -> str:
        return "rootfs"

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self) -> str:
        return "rootfs/bulk/source"

    @pytest.fixture
    def fs_glob_edge_cases_files(self) -> str:
        return "rootfs/edges/source"

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self) -> str:
        return "rootfs/prefix/source"

    @pytest.fixture
    def fs_10_files_with_hashed_names(self) -> str:
        return "rootfs/hashed/source"


def test_pandas_reads_a_table(archive: Path) -> None:
    """By a chained address, and by the options that pandas hands on."""
    pandas = pytest.importorskip("pandas", reason="pandas has no wheel here")
    chained = pandas.read_csv(f"imagefs://rootfs/data/one.csv::file://{archive}")
    named = pandas.read_csv(
        "imagefs://rootfs/data/one.csv", storage_options={"source": str(archive)}
    )
    assert list(chained["name"]) == list(named["name"]) == ["one", "two"]


@pytest.fixture
def parquet(tmp_path: Path) -> ImageFileSystem:
    """An image with a data set of Parquet files, a directory a year."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow has no wheel here")
    from pyarrow import parquet as written  # noqa: PLC0415

    members = {}
    for year in (2023, 2024):
        out = io.BytesIO()
        written.write_table(pyarrow.table({"size": list(range(year, year + 100))}), out)
        members[f"set/year={year}/part.parquet"] = File(out.getvalue())
    archive = tmp_path / "set.tar"
    archive.write_bytes(docker_save(layer(members)))
    return ImageFileSystem(source=archive)


def test_pyarrow_reads_a_data_set(parquet: ImageFileSystem) -> None:
    """All files of a directory are one table, with what the names of their directories say."""
    from pyarrow import dataset  # noqa: PLC0415

    found = dataset.dataset("rootfs/set", filesystem=parquet, partitioning="hive")
    table = found.to_table(filter=dataset.field("year") == 2024)
    assert table.num_rows == 100
    assert sorted(table["size"].to_pylist()) == list(range(2024, 2124))


def test_duckdb_reads_what_a_pattern_means(parquet: ImageFileSystem) -> None:
    """A query over a pattern of names in the image."""
    duckdb = pytest.importorskip("duckdb", reason="duckdb has no wheel here")
    with duckdb.connect() as connection:
        connection.register_filesystem(parquet)
        query = "SELECT count(*), min(size) FROM read_parquet('imagefs://rootfs/set/*/*.parquet')"
        assert connection.execute(query).fetchone() == (200, 2023)
