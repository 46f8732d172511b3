"""What merging costs: work that grows with what is there, and memory that has a bound."""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagefs.index.reader import Index
from imagefs.vfs import image_fs as mount
from imagefs.vfs import images, links, merge, nodeid, open_layer, runs
from imagefs.vfs.image_fs import ImageFs, image_fs
from imagefs.vfs.memory import MOST_BYTES, SMALL, Memory, Shelf
from imagefs.vfs.open_layer import SparseMap
from tests.support import oracle
from tests.support.tars import Hard, Node, Sym, fs_of, image_of, paths, resolve, shown
from tests.support.tars import layer as tar
from tests.vfs.test_merge_properties import LAYERS, mounted


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the rows that are looked at since the last time somebody asked."""
    count = itertools.count()
    row = Index.row

    def counted(self: Index, number: int) -> object:
        next(count)
        return row(self, number)

    monkeypatch.setattr(Index, "row", counted)
    last = -1

    def so_far() -> int:
        nonlocal last
        before, last = last, next(count)
        return last - before - 1

    return so_far


# Work


def chains(count: int, depth: int, each: int) -> list[bytes]:
    """Layers of a deep chain of directories each, with links to the bottom layer's end of it."""
    chain = "d/" * depth
    layers = [tar({f"{chain}f": "bottom"})]
    for number in range(1, count):
        names = {f"l{number}-{at}": Hard(f"{chain}f") for at in range(each)}
        layers.append(tar({f"{chain}g{number}": "", **names}))
    return layers


def test_links_to_lower_layers_cost_what_they_are(tmp_path: Path, looks: Callable[[], int]) -> None:
    """Depth, layers and links do not multiply: each directory of each layer is found once."""
    layers, depth, each = 30, 60, 12
    fs = fs_of(chains(layers, depth, each), tmp_path)
    looks()
    names = fs.listdir(node_of(fs, "rootfs"))
    assert len(names) == 1 + (layers - 1) * each
    assert {attr.nlink for name, attr in ((e.name, e.attr) for e in names) if name != b"d"} == {
        (layers - 1) * each + 1
    }
    assert looks() < 30 * layers * (depth + each)


def test_what_one_view_found_out_the_others_know(tmp_path: Path, looks: Callable[[], int]) -> None:
    """Links, and directories that show through each other, are looked for once for all views."""
    fs = fs_of(chains(12, 60, 12), tmp_path)
    looks()
    paths(fs, "rootfs")
    first = looks()
    below = fs.listdir(node_of(fs, "snapshots"))[-1].name.decode()
    paths(fs, f"snapshots/{below}")
    assert looks() < first * 2 // 3


def test_links_are_found_beyond_those_that_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many links there are, each is the lower file; only st_nlink says less."""
    layers = chains(4, 3, 5)
    counted = paths(fs_of(layers, tmp_path), "rootfs")
    monkeypatch.setattr(links, "MAX_STEPS", 7)
    found = paths(fs_of(layers, tmp_path), "rootfs")
    assert {path: attr.ino for path, attr in found.items()} == {
        path: attr.ino for path, attr in counted.items()
    }
    assert {counted["l3-4"].nlink, counted["d/d/d/f"].nlink} == {16}
    assert 1 < found["l1-0"].nlink < 16


def test_counting_links_has_a_bound_however_many_layers_show(
    tmp_path: Path, looks: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer that a name is looked for in is a step; the rest waits until somebody asks."""
    names = [f"f/{number}" for number in range(300)]
    layers = [tar(dict.fromkeys(names, "")), *(tar({f"f/x{at}": ""}) for at in range(60))]
    layers.append(tar({f"l/{at}": Hard(name) for at, name in enumerate(names)}))
    monkeypatch.setattr(links, "MAX_STEPS", 1000)
    looks()
    fs = fs_of(layers, tmp_path)
    assert looks() < 4000
    found = paths(fs, "rootfs")
    assert all(found[f"l/{at}"].ino == found[name].ino for at, name in enumerate(names))


def piled(count: int, links: dict[str, Node], names: list[str], each: int = 1) -> list[bytes]:
    """Layers that all lay something on `f`, between the bottom one's names and links to them."""
    between = [tar({f"f/x{at}-{n}": "" for n in range(each)}) for at in range(count)]
    return [tar(dict.fromkeys(names, "")), *between, tar(links)]


@pytest.mark.parametrize("below", ["", "/t"])
@pytest.mark.parametrize("each", [1, 20])
def test_links_and_the_layers_that_lie_between_do_not_multiply(
    tmp_path: Path, looks: Callable[[], int], below: str, each: int
) -> None:
    """Be it the link's target that many layers lie on, or the directory that it is in."""
    layers, count = 90, 1500
    names = [f"f/{number}{below}" for number in range(count)]
    linked = {f"l/{number}": Hard(name) for number, name in enumerate(names)}
    fs = fs_of(piled(layers, linked, names, each), tmp_path)
    found = paths(fs, "rootfs")
    assert all(found[f"l/{n}"].ino == found[name].ino for n, name in enumerate(names))
    assert {found[name].nlink for name in names} == {2}
    assert looks() < 60 * (count + layers * each)


def test_links_of_many_layers_do_not_look_through_all_below(
    tmp_path: Path, looks: Callable[[], int]
) -> None:
    """What was read for a layer's links serves those of the next, and the counts of all."""
    layers, each = 90, 20
    names = [f"f/{number}" for number in range(layers * each)]
    made = [tar(dict.fromkeys(names, ""))]
    for at in range(layers):
        own = names[at * each : (at + 1) * each]
        made.append(tar({f"f/l{name[2:]}": Hard(name) for name in own}))
    fs = fs_of(made, tmp_path)
    found = paths(fs, "rootfs")
    assert all(found[f"f/l{name[2:]}"].ino == found[name].ino for name in names)
    assert {found[name].nlink for name in names} == {2}
    assert looks() < 100 * len(names)


def test_directories_and_the_layers_that_lie_between_do_not_multiply(
    tmp_path: Path, looks: Callable[[], int]
) -> None:
    """A directory above finds the one that shows through it, however far down that is."""
    layers, count = 90, 1500
    names = [f"f/{number}/low" for number in range(count)]
    top: dict[str, Node] = {f"f/{number}/top": Hard("f/0/low") for number in range(count)}
    fs = fs_of(piled(layers, top, names), tmp_path)
    for number in range(count):
        assert resolve(fs, f"rootfs/f/{number}/low") is not None
    assert looks() < 100 * count


def test_names_are_counted_once_for_all_snapshots(tmp_path: Path, looks: Callable[[], int]) -> None:
    """To show the same links in more snapshots takes no more than to show them."""
    names = [f"f/{number}" for number in range(50)]
    linked = {f"l/{at}": Hard(names[at % 50]) for at in range(600)}
    above: list[dict[str, str]] = [{f"u{at}": ""} for at in range(12)]
    above[5] |= {"l/.wh.7": "", "f/.wh.8": ""}
    below = [tar(dict.fromkeys(names, "")), tar(linked)]
    fs = fs_of([*below, *map(tar, above)], tmp_path)
    snapshots = [one.name.decode() for one in fs.listdir(node_of(fs, "snapshots"))]
    looks()
    counts = []
    for name in snapshots:
        attrs = {one.name: one.attr for one in fs.listdir(node_of(fs, f"snapshots/{name}/f"))}
        counts.append([attrs[b"7"].nlink, attrs[b"9"].nlink])
    assert counts == [[1, 1]] + [[13, 13]] * 6 + [[12, 13]] * 7
    assert looks() < 8 * (650 + 50 * len(snapshots))


def test_a_directory_is_found_however_the_layers_are_stepped(tmp_path: Path) -> None:
    """The way through many layers, each with one directory less of a path, does not recurse."""
    count = 400
    everything = "d/" * count
    layers = [tar({f"{everything}low": "low"})]
    layers += [tar({f"{'d/' * depth}f{depth}": ""}) for depth in range(1, count)]
    layers.append(tar({f"{everything}top": "top"}))
    fs = fs_of(layers, tmp_path, "rootfs")
    deepest = resolve(fs, everything)
    assert deepest is not None
    assert [entry.name for entry in fs.listdir(deepest.node)] == [b"low", b"top"]


# Layers that come several times


def node_of(fs: ImageFs, path: str) -> int:
    attr = resolve(fs, path)
    assert attr is not None, path
    return attr.node


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.lists(st.integers(0, 3), min_size=2, max_size=7))
def test_layers_that_come_again_merge_as_any(
    layers: list[list[tuple[str, Node]]], order: list[int]
) -> None:
    """A layer that the manifest lists several times hides and shows what it does at each place."""
    layers = [layers[at % len(layers)] for at in order]
    with mounted(layers) as (fs, names):
        trees = [oracle.unpack(members, number) for number, members in enumerate(layers)]
        for name, tree in zip(names, oracle.stack(trees), strict=True):
            assert oracle.shown(fs, f"snapshots/{name}", names) == oracle.expected(tree)


def test_a_layer_that_comes_again_is_opened_once(tmp_path: Path, looks: Callable[[], int]) -> None:
    """It takes two files however often it is listed, and adds nothing to what merging costs."""
    image = image_of([tar({f"d{at}/f": "" for at in range(50)})], tmp_path)
    image = replace(image, layers=image.layers * 100)
    before = len(os.listdir("/proc/self/fd"))
    fs = image_fs(image, tmp_path)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    looks()
    assert len(paths(fs, "rootfs")) == 100
    assert looks() < 20 * 100
    # Its files are of the topmost place all the same.
    name = fs.getxattr(node_of(fs, "rootfs/d0/f"), mount.LAYER_XATTR)
    assert name == image.layer_names()[-1].encode()


# Memory


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have next to nothing be remembered."""
    monkeypatch.setattr(images, "Memory", partial(Memory, 4 * SMALL))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every directory that is not empty be a wide one."""
    monkeypatch.setattr(mount, "WIDE", 0)
    monkeypatch.setattr(merge, "_TOGETHER", 2)


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whatever shows through another directory be read with it, at the first look."""
    monkeypatch.setattr(runs, "DEEP", 0)
    monkeypatch.setattr(merge, "size", lambda _: 0)


@pytest.fixture
def short(deep: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs end soon, and be too short for some directories."""
    monkeypatch.setattr(runs, "_MOST", 2 * SMALL)


@pytest.mark.parametrize("fixture", ["forgetful", "wide", "deep", "short"])
def test_what_is_shown_is_the_same(fixture: str, request: pytest.FixtureRequest) -> None:
    """Whether nothing is remembered, or directories are merged or looked in bit by bit or whole."""
    request.getfixturevalue(fixture)

    @settings(max_examples=60, deadline=None)
    @given(LAYERS)
    def check(layers: list[list[tuple[str, Node]]]) -> None:
        with mounted(layers) as (fs, names):
            trees = [oracle.unpack(members, number) for number, members in enumerate(layers)]
            for name, tree in zip(names, oracle.stack(trees), strict=True):
                assert oracle.shown(fs, f"snapshots/{name}", names) == oracle.expected(tree)
            # Unpacked anew: to lay layers on each other binds their links.
            for number, (name, members) in enumerate(zip(names, layers, strict=True)):
                tree = oracle.unpack(members, number)
                assert oracle.shown(fs, f"layers/{name}", names) == oracle.expected(tree)

    check()


@pytest.mark.parametrize("fixture", ["deep", "short"])
def test_a_name_is_found_where_it_is_listed(fixture: str, request: pytest.FixtureRequest) -> None:
    """And nowhere else, in whichever snapshot it is asked for first."""
    request.getfixturevalue(fixture)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(LAYERS, min_size=2, max_size=3), st.booleans())
    def check(some: list[list[list[tuple[str, Node]]]], upwards: bool) -> None:
        with mounted([one for layers in some for one in layers]) as (fs, names):
            for name in (*sorted(names, reverse=not upwards), *names):
                found = oracle.walk(fs, f"snapshots/{name}")
                for path in ("", *found):
                    at = node_of(fs, f"snapshots/{name}/{path}")
                    if not path or found[path].mode >> 12 == merge.S_IFDIR:
                        asked = {one: fs.lookup(at, one.encode()) for one in "abcd"}
                        listed = {one: found.get(f"{path}/{one}".lstrip("/")) for one in "abcd"}
                        assert asked == listed

    check()


def test_one_bound_holds_for_all_that_is_remembered() -> None:
    """What is heavy pushes out what is light, on every shelf; what is kept again weighs once."""
    memory = Memory(100 * SMALL)
    light: Shelf[int, int] = Shelf(memory)
    heavy: Shelf[int, str] = Shelf(memory)
    for number in range(1000):
        light.keep(number, number)
        light.keep(number, -number)
        assert memory.weight <= 100 * SMALL
    assert light.known[999] == -999
    assert 50 <= len(light.known) <= 100
    heavy.keep(1, "x", 90 * SMALL)
    assert heavy.known == {1: "x"}
    assert len(light.known) <= 10
    heavy.keep(2, "y", 95 * SMALL)
    assert heavy.known == {2: "y"}
    assert memory.weight <= 100 * SMALL


def test_a_walk_through_all_views_stays_within_the_bound(tmp_path: Path) -> None:
    """Views do not each remember the same; some thousand directories take what they take once."""
    layers = [tar({f"d{at}/e/f{number}": "" for at in range(60)}) for number in range(12)]
    fs = fs_of(layers, tmp_path)
    paths(fs, "snapshots")
    once = 12 * 120
    assert fs._memory.weight < 4 * SMALL * once < MOST_BYTES


# Wide directories


def test_a_wide_directory_is_merged_as_it_is_read(
    tmp_path: Path, looks: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its beginning does not wait for its end."""
    monkeypatch.setattr(merge, "_TOGETHER", 64)
    layers = [tar({f"d/{at:05}-{number}": "" for at in range(4000)}) for number in range(2)]
    fs = fs_of([*layers, tar({f"d/.wh.{at:05}-0": "" for at in range(0, 4000, 2)})], tmp_path)
    directory = node_of(fs, "rootfs/d")
    looks()
    entries = fs.listdir(directory)
    some = [entry.name for entry in entries[:3]]
    assert some == [b"00000-1", b"00001-0", b"00001-1"]
    assert looks() < 2000
    names = [entry.name for entry in entries]
    assert names == sorted(names)
    assert len(names) == len(entries) == 6000
    assert entries[5999].name == names[-1] == b"03999-1"
    assert [entry.name for entry in entries[5990:7000]] == names[5990:]


# Sparse files

RUNS = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 9000)), max_size=300)


@settings(max_examples=60, deadline=None)
@given(RUNS, st.integers(1, 5), st.lists(st.integers(0, 1 << 20), min_size=4, max_size=4))
def test_a_sparse_map_is_its_runs(
    gaps: list[tuple[int, int]], stride: int, asked: list[int]
) -> None:
    """SpooledFiles, blocks, data and holes are those of the runs, however few of them are known."""
    runs, at = [], 0
    for gap, length in gaps:
        runs.append((at + gap, length))
        at += gap + length
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_layer, "_STRIDE", stride)
        found = SparseMap(lambda first, end: runs[first:end])
        blocks = {block for s, n in runs for block in range(s // 4096, -(-(s + n) // 4096))}
        assert found.blocks == len(blocks)
        places = list(itertools.accumulate((length for _, length in runs), initial=0))
        for offset, size in itertools.product([*asked, 0, at], (1, 5000, 1 << 21)):
            assert list(found.within(offset, offset + size)) == [
                (max(s, offset), min(s + n, offset + size) - max(s, offset),
                 place + max(s, offset) - s)
                for (s, n), place in zip(runs, places, strict=False)
                if max(s, offset) < min(s + n, offset + size)
            ]  # fmt: skip
        for offset in (*asked, 0, at):
            data = next((max(s, offset) for s, n in runs if s + n > offset), None)
            assert found.seek(offset, data=True) == data
            hole = offset
            for s, n in runs:
                hole = s + n if s <= hole < s + n else hole
            assert found.seek(offset, data=False) == hole


def test_the_maps_of_sparse_files_weigh_little() -> None:
    """A file of as many runs as a layer may have takes a hundredth of what its runs do."""
    count = 1 << 16
    found = SparseMap(lambda first, end: [(at * 4096, 1) for at in range(first, min(end, count))])
    assert found.blocks == count
    assert found.weight < count * 16 // 100


# Numbers


def test_numbers_are_given_again_as_late_as_can_be() -> None:
    """The longest forgotten first, and none while it is in use."""
    numbers = nodeid.Numbers(4)
    assert [numbers.take() for _ in range(3)] == [1, 2, 3]
    numbers.give_back(2)
    numbers.give_back(1)
    assert numbers.left() == 3
    assert [numbers.take() for _ in range(3)] == [4, 2, 1]
    assert numbers.left() == 0
    with pytest.raises(IndexError):
        numbers.take()


def test_inode_numbers_are_dense() -> None:
    """The lowest that are free come first, and what is given back joins its neighbours."""
    numbers = nodeid.InodeNumbers()
    first, second, third = (numbers.take(count) for count in (10, 20, 5))
    assert (first.start, second.start, third.start) == tuple(
        nodeid.MADE_INOS + at for at in (0, 10, 30)
    )
    numbers.give_back(first)
    numbers.give_back(second)
    assert numbers.take(30) == range(first.start, second.stop)
    assert numbers.take(1).start == third.stop


def test_inode_numbers_name_one_thing_each(tmp_path: Path) -> None:
    """Below 2^32, one for a file wherever it shows, and for nothing else."""
    layers = [
        tar({"a": "1", "b": Hard("a"), "d/e/f": "2", "l": Sym("a")}),
        tar({"c": Hard("a"), "d/e/g": "3"}),
        tar({".wh.b": "", "d/.wh.e": "", "n": "4"}),
    ]
    fs = fs_of(layers, tmp_path)
    found = paths(fs)
    names = [entry.name.decode() for entry in fs.listdir(node_of(fs, "layers"))]
    kinds: dict[int, set[object]] = {}
    for attr in found.values():
        _, number, row = nodeid.unpack(attr.node)
        leaf = attr.mode >> 12 != 4
        kinds.setdefault(attr.ino, set()).add((leaf, number, row) if number and leaf else attr.ino)
        assert 0 < attr.ino < 1 << 32
    assert all(len(one) == 1 for one in kinds.values())
    # A link whose target is in another layer leads nowhere in a layer alone.
    del found[f"layers/{names[1]}/c"]
    files = {attr.ino for path, attr in found.items() if path.rpartition("/")[2] in "abc"}
    assert len(files) == 1
    shown_by = {path: attr for path, attr in found.items() if path.endswith("/d/e")}
    assert len({attr.ino for attr in shown_by.values()}) == len(shown_by)
    assert shown(fs)["c"] == "1"
