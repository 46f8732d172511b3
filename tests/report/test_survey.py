"""What a report gathers of an image, beside the eager merge, and what it makes of odd values."""

import tarfile
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings

from imagefs.report import facts
from imagefs.report.folders import Folder, pruned
from imagefs.report.sums import ADDED, CHANGED, DELETED
from imagefs.report.survey import Survey, survey
from imagefs.report.treemap import WHOLE, mapped
from imagefs.tree.hiding import Hiding
from tests.support import oracle
from tests.support.tars import Dir, File, Hard, Sym, layer
from tests.support.tars import Node as Member
from tests.tree.test_waste import entry_of, examined
from tests.vfs.test_merge_properties import LAYERS


def surveyed(folder: Path, *layers: bytes) -> Survey:
    return survey(examined(layers, folder))


def leaves(tree: oracle.Tree) -> dict[str, oracle.Inode]:
    return {
        path: child for path, child in oracle.flatten(tree, "") if isinstance(child, oracle.Inode)
    }


def own(tree: oracle.Tree, prefix: str = "") -> Iterator[tuple[str, "oracle.Tree | oracle.Inode"]]:
    """All that a layer has of the root: no markers, nor what is there for their sake only."""
    for name, child in tree.entries.items():
        if oracle.is_hidden(name, child) or entry_of(tree, name) is None:
            continue
        yield prefix + name, child
        if isinstance(child, oracle.Tree):
            yield from own(child, f"{prefix}{name}/")


def attributes(child: object) -> object:
    if not isinstance(child, oracle.Tree):
        return None
    node = child.node or Dir(0o755)
    return node.mode, node.uid, node.gid


@settings(max_examples=150, deadline=None)
@given(LAYERS)
def test_sums_are_those_of_the_eager_merge(layers: list[list[tuple[str, Member]]]) -> None:
    """The root's bytes and names, and what each layer added, changed and deleted."""
    with tempfile.TemporaryDirectory() as folder:
        found = surveyed(Path(folder), *map(layer, layers))
    trees = [oracle.unpack(members, number) for number, members in enumerate(layers)]
    made = [dict(own(tree)) for tree in trees]
    described = [
        {path for path, child in one.items() if isinstance(child, oracle.Tree) and child.node}
        for one in made
    ]
    snapshots = list(oracle.stack(trees))
    files = leaves(snapshots[-1])
    assert found.files == found.root.count == len(files)
    shown = {id(one): one for one in files.values() if one.node.type == tarfile.REGTYPE}
    assert found.root.total == sum(len(one.node.content) for one in shown.values())
    assert found.root.total == found.waste.brought - found.waste.lost
    before: dict[str, oracle.Tree | oracle.Inode] = {}
    for number, snapshot in enumerate(snapshots):
        after = dict(oracle.flatten(snapshot, ""))
        wanted = {ADDED: 0, CHANGED: 0}
        for path, child in made[number].items():
            if isinstance(child, oracle.Tree):
                if path not in described[number]:
                    continue
                if attributes(before.get(path)) == attributes(child):
                    continue
            wanted[CHANGED if path in before else ADDED] += 1
        names = found.changes[number].names
        assert {kind: names.get(kind, 0) for kind in wanted} == wanted
        gone = [path for path in before if path not in after]
        files_gone = [path for path in gone if isinstance(before[path], oracle.Inode)]
        assert len(files_gone) <= names.get(DELETED, 0) <= len(gone)
        before = after


def test_a_pruned_tree_loses_no_byte(tmp_path: Path) -> None:
    """What is not shown one by one is told as a sum, level by level, and so it is in the map."""
    members = {
        f"d{a}/e{b}/f{c}": "x" * (a * b + c) for a in range(9) for b in range(9) for c in range(50)
    }
    found = surveyed(tmp_path, layer(members))
    for budget in (0, 1, 10, 100, 5000):
        top = pruned(found.root, budget)
        nodes = list(top.all())
        assert len(nodes) - 1 <= budget
        for node in nodes:
            if node.is_folder:
                assert node.size == node.rest_size + sum(one.size for one in node.children)
                assert node.count == node.rest_count + sum(one.count for one in node.children)
        check_map(mapped(top))


def check_map(node: list[object]) -> None:
    """Rectangles tile their directory, by bytes: none overlaps another, none is outside."""
    if len(node) == 4:
        return
    places, children = node[4], node[5]
    assert isinstance(places, list)
    assert isinstance(children, list)
    assert sum(child[1] for child in children) == node[1]
    area = 0
    for x, y, width, height in places:
        assert 0 <= x <= x + width <= WHOLE
        assert 0 <= y <= y + height <= WHOLE
        area += width * height
    # Each edge is rounded to a thousandth.
    assert abs(area - WHOLE * WHOLE) <= 2 * WHOLE * len(places)
    for child in children:
        check_map(child)


def test_directories_in_a_line_are_one_entry() -> None:
    """A way with nothing beside it is not worth a level each."""
    root = Folder()
    inner = root.at(b"usr/share/doc")
    inner.count_name(0)
    inner.add(b"x", 0, 7)
    [node] = pruned(root.settle(), 10).children
    assert (node.name, node.size) == ("usr/share/doc", 7)
    assert [one.name for one in node.children] == ["x"]


def test_a_deleted_directory_is_one_entry(tmp_path: Path) -> None:
    """With all that was in it; where it is there again, the entry lies in it."""
    found = surveyed(
        tmp_path,
        layer({"d/a": "12", "d/s/b": "3", "e/c": "45", "x": "6"}),
        layer({".wh.d": "", ".wh.e": "", "e/": "", "e/n": "", ".wh.x": "", "m": "", "new/": ""}),
    )
    nodes = {one.name: one for one in pruned(found.changes[1], 100).all()}
    assert (nodes["d"].kind, nodes["d"].size, nodes["d"].count) == (DELETED, 3, 2)
    assert nodes["x"].kind == DELETED
    assert (nodes["new"].kind, nodes["new"].is_folder) == (ADDED, True)
    [gone] = [one for one in nodes["e"].children if not one.name]
    assert (gone.kind, gone.size, gone.count) == (DELETED, 2, 1)
    assert nodes["n"].kind == ADDED
    assert nodes["/"].names == {ADDED: 3, DELETED: 4}


CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


def test_what_is_worth_a_look(tmp_path: Path) -> None:
    """Setuid files and such, as the root has them: what is hidden or replaced is no matter."""
    members = {"tmp/": Dir(0o1777), "open/": Dir(0o777), "closed/": Dir(0o777)}
    members |= {"gone/": Dir(0o777), "old": File("x", 0o4755), "locked": File("", 0o2644)}
    members |= {"su": File("x", 0o4755), "both": Hard("su"), "sg": File("", 0o2755)}
    members |= {"ping": File("", xattrs={"security.capability": CAP_NET_RAW})}
    members |= {"etc/passwd": File("no:x:1:1::/:/bin/false\nroot:x:0:0:root:/root:/bin/sh\n")}
    base = layer(members)
    top = layer({"closed/": Dir(0o755), ".wh.gone": "", "old": File("x"), "l": Sym("su")})
    found = surveyed(tmp_path, base, top)
    assert {(one.path, one.number) for one in found.setuid} == {(b"both", 0o4755), (b"sg", 0o2755)}
    assert {(one.path, one.number) for one in found.writable} == {
        (b"tmp", 0o1777),
        (b"open", 0o777),
    }
    assert [(one.path, facts.capabilities(one.more)) for one in found.capable] == [
        (b"ping", "net_raw +ep")
    ]
    assert [one.name for one in facts.accounts(found.passwd)] == ["root", "no"]
    assert found.biggest[0].path == b"etc/passwd"


def test_a_directory_takes_no_object(tmp_path: Path) -> None:
    """Memory for the page is a few numbers a name: directories, and what is under whiteouts."""
    # What is read at a time is in memory for few and many.
    few, many = 5000, 10_000
    flat, gone = (
        [measured(tmp_path / f"{made.__name__}{number}", *made(number)) for number in (few, many)]
        for made in (directories, whiteouts)
    )
    assert flat[1] - flat[0] < 200 * (many - few)
    assert gone[1] - gone[0] < 700 * (many - few)


def directories(number: int) -> list[bytes]:
    return [layer({f"d{at:05}/": Dir(0o755) for at in range(number)})]


def whiteouts(number: int) -> list[bytes]:
    names = [f"d{at:05}" for at in range(number)]
    return [
        layer({f"{name}/f": "" for name in names}),
        layer({f".wh.{name}": "" for name in names}),
    ]


def measured(folder: Path, *layers: bytes) -> int:
    """Return the most bytes that it takes to gather what is in layers, and to show some of it."""
    folder.mkdir()
    one = examined(layers, folder)
    tracemalloc.start()
    try:
        found = survey(one._replace(hiding=Hiding(one.hiding.links)))
        pruned(found.root, 100)
        for folder_of_layer in found.changes:
            pruned(folder_of_layer, 100)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
