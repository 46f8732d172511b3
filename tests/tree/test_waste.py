"""What layers bring and hide, by hand for each cause and by brute force for random stacks."""

import io
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from imagefs.index import cache as index_cache
from imagefs.tree import hiding, waste
from imagefs.tree.causes import RANK, Cause
from imagefs.tree.waste import Examined, Pair
from tests.support import oracle
from tests.support.tars import Dir, File, Hard, Node, Sym, image_of, layer
from tests.vfs.test_merge_properties import LAYERS

OPAQUE = oracle.OPAQUE


def examined(layers: Sequence[bytes], folder: Path) -> Examined:
    """Examine an image of these layers, indexed here and not in worker processes."""
    image = image_of(layers, folder)
    for one in image.layers:
        index_cache.build(one, folder)
    return waste.examine(image, folder)


def sparse(name: str, size: int, offset: int, data: bytes) -> bytes:
    """A layer of one sparse file with one run of data, as pax 0.1 has it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        said = {"size": f"{size}", "map": f"{offset},{len(data)}", "name": name}
        info.pax_headers = {f"GNU.sparse.{key}": value for key, value in said.items()}
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def found(layers: Sequence[bytes], folder: Path) -> dict[tuple[int, int, str], int]:
    """The hidden bytes by the layer that made them, the one that hid them, and the cause."""
    one = examined(layers, folder)
    measured = waste.measure(one.hiding, one.contents)
    for number, index in enumerate(one.hiding.indexes):
        assert measured.layers[number].brought == index.content_bytes
    for each in measured.layers:
        assert each.shown >= 0
        assert each.shown + each.lost == each.brought
    assert measured.pairs.total() == measured.lost
    assert waste.hidden_bytes(one.hiding) == [each.lost for each in measured.layers]
    return {tuple(pair): size for pair, size in measured.pairs.items()}  # type: ignore[misc]


# Each name: the layers, bottom first, and what they hide: (made, hidden by, cause) to bytes.
CASES: dict[str, tuple[list[Any], dict[tuple[int, int, str], int]]] = {
    "nothing is hidden": ([{"a": "123"}, {"b": "4567"}], {}),
    "overwritten": ([{"a": "123"}, {"a": "4567"}], {(0, 1, "overwritten"): 3}),
    "overwritten by a link": ([{"a": "123"}, {"a": Sym("b")}], {(0, 1, "overwritten"): 3}),
    "overwritten by a directory": ([{"a": "123"}, {"a/": ""}], {(0, 1, "overwritten"): 3}),
    "overwritten twice": (
        [{"a": "123"}, {"a": "45"}, {"a": "6"}],
        {(0, 1, "overwritten"): 3, (1, 2, "overwritten"): 2},
    ),
    "only the mode is another": (
        [{"a": File("123")}, {"a": File("123", 0o600)}],
        {(0, 1, "copied"): 3},
    ),
    "of one size, but not of one content": (
        [{"a": "123"}, {"a": "124"}],
        {(0, 1, "overwritten"): 3},
    ),
    "deleted": ([{"a": "123"}, {".wh.a": ""}], {(0, 1, "deleted"): 3}),
    "deleted, and back": (
        [{"a": "123"}, {".wh.a": ""}, {"a": "123"}],
        {(0, 1, "deleted"): 3},
    ),
    "deleted and made anew by one layer": (
        [{"a": "123"}, {".wh.a": "", "a": "45"}],
        {(0, 1, "overwritten"): 3},
    ),
    "a whiteout in its own layer": ([{"a": "123", ".wh.a": ""}], {}),
    "below a deleted directory": (
        [{"d/a": "123", "d/s/b": "45"}, {".wh.d": ""}],
        {(0, 1, "below"): 5},
    ),
    "below a directory that a file replaces": (
        [{"d/a": "123"}, {"d": "45"}],
        {(0, 1, "below"): 3},
    ),
    "below a directory that is deleted and back": (
        [{"d/a": "123"}, {".wh.d": "", "d/": "", "d/b": "45"}],
        {(0, 1, "below"): 3},
    ),
    "below a directory that is replaced, then back": (
        [{"d/a": "123"}, {"d": "45"}, {"d/": "", "d/a": "6"}],
        {(0, 1, "below"): 3, (1, 2, "overwritten"): 2},
    ),
    "opaque": (
        [{"d/a": "123", "d/s/b": "45"}, {f"d/{OPAQUE}": "", "d/c": "6"}],
        {(0, 1, "opaque"): 5},
    ),
    "opaque over opaque": (
        [{"d/a": "123"}, {f"d/{OPAQUE}": "", "d/b": "45"}, {f"d/{OPAQUE}": "", "d/c": "6"}],
        {(0, 1, "opaque"): 3, (1, 2, "opaque"): 2},
    ),
    "opaque, and a directory in it again": (
        [{"d/s/a": "123"}, {f"d/{OPAQUE}": "", "d/s/b": "45"}],
        {(0, 1, "opaque"): 3},
    ),
    "an opaque root": ([{"a": "123", "d/b": "45"}, {OPAQUE: ""}], {(0, 1, "opaque"): 5}),
    "opaque and the same name": (
        [{"d/a": "123", "d/b": "45"}, {f"d/{OPAQUE}": "", "d/a": "6"}],
        {(0, 1, "overwritten"): 3, (0, 1, "opaque"): 2},
    ),
    "one cause after another": (
        [{"d/a": "123", "d/b": "45"}, {"d/.wh.a": ""}, {"d/a": "6789"}, {".wh.d": ""}],
        {(0, 1, "deleted"): 3, (0, 3, "below"): 2, (2, 3, "below"): 4},
    ),
    "a hard link counts once": (
        [{"a": "123", "b": Hard("a")}, {".wh.a": "", ".wh.b": ""}],
        {(0, 1, "deleted"): 3},
    ),
    "one name of two is left": ([{"a": "123", "b": Hard("a")}, {".wh.a": ""}], {}),
    "the last name counts": (
        [{"a": "123", "b": Hard("a")}, {".wh.a": ""}, {"b": "45"}],
        {(0, 2, "overwritten"): 3},
    ),
    "a hard link across layers keeps a file": ([{"a": "123"}, {"b": Hard("a"), ".wh.a": ""}], {}),
    "a hard link across layers, gone as well": (
        [{"a": "123"}, {"b": Hard("a")}, {".wh.a": ""}, {".wh.b": ""}],
        {(0, 3, "deleted"): 3},
    ),
    "a hard link across layers to a name that is overwritten": (
        [{"a": "123"}, {"d/b": Hard("a"), "a": "45"}, {".wh.d": ""}],
        {(0, 2, "below"): 3},
    ),
    "a marker with content": ([{"a": "123", ".wh.b": "45"}], {(0, 0, "marker"): 2}),
    "what an old driver left": (
        [{".wh..wh.plnk/1": "123", "a": Hard(".wh..wh.plnk/1"), ".wh..wh.plnk/2": "45"}],
        {(0, 0, "marker"): 2},
    ),
    "the same path twice in a layer": ([[("a", "123"), ("a", "45")]], {}),
    "a link that a directory replaces": ([{"l": Sym("d"), "d/a": "123"}, {"l/a": "45"}], {}),
    "nothing but metadata": ([{"d/": Dir(0o755)}, {"d/": Dir(0o700)}], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_cause(name: str, tmp_path: Path) -> None:
    """What is hidden, by whom and by what means, as worked out by hand."""
    layers, expected = CASES[name]
    assert found([layer(members) for members in layers], tmp_path) == expected


def test_of_a_sparse_file_its_data_counts(tmp_path: Path) -> None:
    """A hole weighs nothing; zeros in its place are the same content."""
    holed = sparse("a", 1 << 20, 4096, b"data")
    plain = bytes(4096) + b"data" + bytes((1 << 20) - 4100)
    for above, cause in (
        (layer({".wh.a": ""}), "deleted"),
        (layer({"a": File(plain)}), "copied"),
        (layer({"a": File(plain[:-1] + b"x")}), "overwritten"),
        (sparse("a", 1 << 20, 4095, b"\0data"), "copied"),
    ):
        assert found([holed, above], tmp_path) == {(0, 1, cause): 4}
    huge = sparse("a", 1 << 60, 1 << 59, b"data")
    assert found([huge, huge + bytes(512)], tmp_path) == {(0, 1, "copied"): 4}


def test_a_layer_that_comes_twice_hides_itself(tmp_path: Path) -> None:
    """What the lower one brings is copied by the upper; in between it may have been overwritten."""
    one, other = layer({"a": "123", "b": "45"}), layer({"a": "6"})
    assert found([one, other, one], tmp_path) == {
        (0, 1, "overwritten"): 3, (0, 2, "copied"): 2, (1, 2, "overwritten"): 1,
    }  # fmt: skip


def test_the_worst_paths_are_named(tmp_path: Path) -> None:
    """A deleted directory is one path, with all that it held of a layer; files are one each."""
    one = examined(
        [
            layer({"d/a": "123", "d/s/b": "45", "x": "6789", "y": "1"}),
            layer({"d/c": "12345678"}),
            layer({".wh.d": "", ".wh.x": "", "y": "2"}),
        ],
        tmp_path,
    )
    spoils = waste.measure(one.hiding, one.contents, worst=3).spoils
    assert [(each.path, each.size, each.files, *each.pair) for each in spoils] == [
        (b"d", 8, 1, 1, 2, "below"),
        (b"d", 5, 2, 0, 2, "below"),
        (b"x", 4, 1, 0, 2, "deleted"),
    ]


def test_duplicates_are_files_and_not_names(tmp_path: Path) -> None:
    """Files of the root that hold the same, in any layer; a hard link is no copy."""
    one = examined(
        [
            layer({"a": "same", "b": Hard("a"), "c": "same", "d": "else", "gone": "same"}),
            layer({"e": "same", ".wh.gone": "", "f": "12345", "g": "12345"}),
        ],
        tmp_path,
    )
    copies = waste.duplicates(one.hiding, one.contents)
    assert [(each.size, each.paths, each.wasted) for each in copies] == [
        (4, (b"a", b"c", b"e"), 8),
        (5, (b"f", b"g"), 5),
    ]


# By brute force


def entry_of(tree: oracle.Tree, name: str) -> "oracle.Tree | oracle.Inode | None":
    """What a layer has under a name, unless it is there for the sake of markers only."""
    child = tree.entries.get(name)
    if isinstance(child, oracle.Tree) and has_whiteout(tree, name) and oracle.is_bare(child):
        return None
    return child


def has_whiteout(tree: oracle.Tree, name: str) -> bool:
    marker = tree.entries.get(f".wh.{name}")
    return marker is not None and oracle.is_whiteout(f".wh.{name}", marker)


def cause_of(above: oracle.Tree, parts: list[str]) -> Cause:
    """Why a path of the root does not show once a layer was laid on it."""
    trees = [above]
    for part in parts[:-1]:
        child = entry_of(trees[-1], part)
        if not isinstance(child, oracle.Tree):
            break
        trees.append(child)
    for depth in reversed(range(len(trees))):
        here, name, last = trees[depth], parts[depth], depth == len(parts) - 1
        entry = entry_of(here, name)
        if last and entry is not None:
            return Cause.OVERWRITTEN
        if has_whiteout(here, name) or isinstance(entry, oracle.Inode):
            return Cause.DELETED if last else Cause.BELOW
        if OPAQUE in here.entries:
            return Cause.OPAQUE
    raise AssertionError(parts)


def at(tree: oracle.Tree, path: str) -> "oracle.Tree | oracle.Inode | None":
    found: oracle.Tree | oracle.Inode | None = tree
    for part in path.split("/"):
        found = found.entries.get(part) if isinstance(found, oracle.Tree) else None
    return found


def brought(tree: oracle.Tree, number: int) -> Iterator[oracle.Inode]:
    """Each inode of a layer once, also one that stands behind a link."""
    seen: dict[int, oracle.Inode] = {}
    for _, child in oracle.flatten(tree, ""):
        if isinstance(child, oracle.Inode) and child.layer == number:
            seen[id(child)] = child
    yield from (one for one in seen.values() if one.node.type == tarfile.REGTYPE)


def names_of(snapshot: oracle.Tree) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for path, child in oracle.flatten(snapshot, ""):
        names.setdefault(id(child), []).append(path)
    return names


def by_brute_force(layers: list[list[tuple[str, Node]]]) -> tuple[list[int], Counter[Pair]]:
    """What each layer brings, and what is hidden, by looking at every path of every snapshot."""
    trees = [oracle.unpack(members, number) for number, members in enumerate(layers)]
    inodes = [list(brought(tree, number)) for number, tree in enumerate(trees)]
    snapshots = list(oracle.stack(trees))
    names = list(map(names_of, snapshots))
    hidden: Counter[Pair] = Counter()
    for number, group in enumerate(inodes):
        for inode in group:
            size = len(inode.node.content)
            gone = [at for at in range(number, len(layers)) if id(inode) not in names[at]]
            if not gone or not size:
                continue
            if gone[0] == number:
                hidden[Pair(number, number, Cause.MARKER)] += size
                continue
            above, paths = trees[gone[0]], names[gone[0] - 1][id(inode)]
            causes = {path: cause_of(above, path.split("/")) for path in paths}
            first = min(causes, key=lambda path: (RANK[causes[path]], path.encode()))
            cause = causes[first]
            over = at(above, first)
            if cause is Cause.OVERWRITTEN and is_copy(over, inode, gone[0]):
                cause = Cause.COPIED
            hidden[Pair(number, gone[0], cause)] += size
    return [sum(len(one.node.content) for one in group) for group in inodes], hidden


def is_copy(over: object, inode: oracle.Inode, layer_number: int) -> bool:
    if isinstance(over, oracle.Inode) and over.behind:
        over = over.behind
    return (
        isinstance(over, oracle.Inode)
        and over.layer == layer_number
        and over.node.type == tarfile.REGTYPE
        and over.node.content == inode.node.content
    )


def test_what_hides_does_not_multiply_with_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that hides what is in a directory, no more is kept than its own layers ask for."""
    kept: list[int] = []
    walls = hiding._Walls.__init__

    def counted(self: hiding._Walls, events: Mapping[int, int]) -> None:
        kept.append(len(events))
        walls(self, events)

    monkeypatch.setattr(hiding._Walls, "__init__", counted)
    names, above = 50, 60
    directories = [layer({f"{name}/f": f"{at}" for name in range(names)}) for at in range(2)]
    whiteouts = layer({f".wh.{name}": "" for name in range(names)})
    opaque = [layer({OPAQUE: "", f"new{at}": ""}) for at in range(above)]
    hidden = found([*directories, whiteouts, *opaque], tmp_path)
    assert hidden == {(0, 1, "overwritten"): names, (1, 2, "below"): names}
    assert sum(kept) < above + 10 * names


@settings(max_examples=300, deadline=None)
@given(LAYERS)
def test_sums_agree_with_brute_force(layers: list[list[tuple[str, Node]]]) -> None:
    """What is brought, shown and hidden, by whom and why, is what the eager merge comes to."""
    with tempfile.TemporaryDirectory() as folder:
        one = examined([layer(members) for members in layers], Path(folder))
        measured = waste.measure(one.hiding, one.contents)
    expected, hidden = by_brute_force(layers)
    assert [each.brought for each in measured.layers] == expected
    assert measured.pairs == hidden
    for number, each in enumerate(measured.layers):
        lost: Mapping[Pair, int] = {p: size for p, size in hidden.items() if p.made == number}
        assert (each.shown, each.lost) == (each.brought - sum(lost.values()), sum(lost.values()))
