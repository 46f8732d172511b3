"""The kernel's own driver shows what the FUSE drivers show: of each table of odd and hostile
layers all that is a tree, of layers at random, and of the semantics of layers every row.
"""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from imagefs.erofs import subtrees
from imagefs.errors import HostError
from imagefs.vfs.image_fs import ImageFs, image_fs
from imagefs.vfs.listed import Listed
from tests import test_hostile
from tests.support.agreeing import agree
from tests.support.kernel import keep, kernel_mounted, mounted_image, need_kernel
from tests.support.tars import Dir, Hard, Node, image_of, layer
from tests.tar import test_odd_tars
from tests.vfs import test_semantics
from tests.vfs.test_merge_properties import LAYERS


@pytest.fixture(autouse=True)
def _kernel() -> None:
    need_kernel()


def compare(layers: list[bytes], folder: Path, view: str | None = None) -> int:
    """Mount layers, and compare what is there with what FUSE would show."""
    with kernel_mounted(layers, folder, folder / "m", view) as mountpoint:
        return agree(image_fs(image_of(layers, folder), folder / "indexes", view), mountpoint)


def on_disk(top: Path) -> dict[str, str]:
    """Return a directory's tree as `tars.shown` does of a file system's."""
    view = {}
    waiting = [("", os.fsencode(top))]
    while waiting:
        prefix, directory = waiting.pop()
        for name in os.listdir(directory):
            path, said = directory + b"/" + name, prefix + os.fsdecode(name)
            if os.path.islink(path):
                view[said] = "-> " + os.fsdecode(os.readlink(path))
            elif os.path.isdir(path):
                view[said + "/"] = ""
                waiting.append((said + "/", path))
            elif os.path.isfile(path):
                try:
                    view[said] = os.fsdecode(Path(os.fsdecode(path)).read_bytes())
                except OSError as error:
                    view[said] = f"!{error.errno}"
            else:
                view[said] = stat.filemode(os.stat(path).st_mode)[0]
    return view


@pytest.mark.parametrize("name", test_semantics.ROWS)
def test_merged_root(name: str, tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """The merged root holds what the row of the layers' semantics says; all views agree."""
    members, expected = test_semantics.ROWS[name]
    layers = list(map(layer, members))
    with kernel_mounted(layers, tmp_path, tmp_path / "m") as mountpoint:
        assert on_disk(mountpoint / "rootfs") == expected
        agree(image_fs(image_of(layers, tmp_path), tmp_path / "indexes"), mountpoint)
    count("layer semantics by the kernel: rows", 1)


@pytest.mark.parametrize("name", test_odd_tars.ROWS)
def test_odd_but_legal(name: str, tmp_path: Path) -> None:
    """Odd tars are shown as by FUSE."""
    compare([test_odd_tars.ROWS[name][0]], tmp_path)


SHOWN = [
    (kind, name)
    for kind, name in test_hostile.CASES
    if test_hostile.KINDS[kind][name].says is None
    # What is made when asked for is large, and takes long to be looked at.
    and isinstance(test_hostile.KINDS[kind][name].data, bytes)
]
TOO_SCATTERED = {"sizes whose sum no 64 bits hold"}
"""What EROFS has no chunks for: it is refused in one line."""


@pytest.mark.parametrize(("kind", "name"), SHOWN)
def test_hostile_layers(
    kind: str, name: str, tmp_path: Path, count: Callable[[str, int], None]
) -> None:
    """What a stranger may put into a layer is shown as by FUSE, or refused in one line."""
    image = test_hostile.image_of(test_hostile.KINDS[kind][name], tmp_path)
    if name in TOO_SCATTERED:
        with pytest.raises(HostError, match="--driver native") as refusal:
            keep(image, tmp_path)
        assert str(refusal.value).isprintable()
        assert not list((tmp_path / "erofs").iterdir())
        return
    with mounted_image(image, tmp_path, tmp_path / "m") as mountpoint:
        agree(image_fs(image, tmp_path / "indexes"), mountpoint)
    count("hostile layers by the kernel: rows", 1)


@settings(max_examples=15, deadline=None)
@given(LAYERS)
def test_layers_at_random(layers: list[list[tuple[str, Node]]]) -> None:
    """All views of layers at random are shown as by FUSE."""
    with tempfile.TemporaryDirectory() as folder:
        compare(list(map(layer, layers)), Path(folder))


def test_many_layers_share_what_they_show(tmp_path: Path) -> None:
    """A directory that no further layer touches is copied from view to view, numbers and all."""
    base = {f"a/{n}/{m}/f": str(n) for n in range(8) for m in range(5)}
    layers = [layer(base | {"l": Hard("a/1/1/f")})]
    layers += [layer({f"a/{n}/{n}/new": "n", f"a/{n}/1/.wh.f": ""}) for n in range(5)]
    assert compare(layers, tmp_path) > 700


def test_what_is_copied_leads_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are right wherever they are cut: blocks of names, and numbers in all of them."""
    monkeypatch.setattr(subtrees, "_PIECE", 4096)
    base = {f"a/{n:03}-{'long' * n}/{m}/f": "" for n in range(60) for m in range(40)}
    # These sort before `.`, and between that and `..`.
    base |= {f"a/-{n}/{name}/f": "" for n in range(9) for name in ("-", ".-", "..-")}
    layers = [layer(base), layer({"b": "", "a/000-/0/g": ""}), layer({"c": ""}), layer({"d": ""})]
    assert compare(layers, tmp_path) > 20_000


@pytest.mark.parametrize("view", [None, "snapshots", "layers"])
def test_what_a_layer_alone_shows_otherwise(view: str | None, tmp_path: Path) -> None:
    """A layer's directories are copied to snapshots only where both show the same."""
    own = {"trusted.overlay.origin": b"x"}
    tree: dict[str, Node | str] = {f"{name}/": "" for name in ("x", "y", "y/b", "y/b/c", "z", "l")}
    tree |= {
        "x/a/": Dir(xattrs=own),
        "x/a/f": "",
        "y/b/.wh.gone": "",
        "y/b/c/f": "",
        "z/d/": Dir(),
        "z/d/.wh..wh..opq": "",
        "z/d/e/f": "",
        "v/w/f": "",
        "l/m/one": "1",
        "l/n/two": Hard("l/m/one"),
    }
    layers = [
        layer(tree),
        layer(
            {f"up/{name}": one for name, one in tree.items()}
            | {"up/l/n/two": Hard("up/l/m/one"), "l/m/.wh.one": "", "z/d/e/g": ""}
        ),
    ]
    assert compare(layers, tmp_path, view) > 40


def test_what_shows_the_same_is_listed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each layer and snapshot only those directories are listed that it shows otherwise."""
    listed: list[int] = []
    listing = ImageFs.listed

    def count(fs: ImageFs, node: int) -> Iterator[Listed]:
        listed.append(node)
        return listing(fs, node)

    monkeypatch.setattr(ImageFs, "listed", count)
    base = {f"a/{n}/": Dir() for n in range(50)} | {"a/": Dir(), "b/": Dir()}
    layers = [layer(base), *(layer({f"b/{n}": ""}) for n in range(3))]
    keep(image_of(layers, tmp_path), tmp_path)
    # Of the lowest layer all; of others, and of snapshots, root and `b`; of the lowest's, the root.
    assert len(listed) == 53 + 3 * 2 + 1 + 3 * 2


def test_links_across_layers(tmp_path: Path) -> None:
    """Hard links into lower layers are one inode, with the count of each view."""
    layers = [layer({"d/f": "x", "g": "y"}), layer({"e/l": Hard("d/f")}), layer({"d/.wh.f": ""})]
    compare(layers, tmp_path)


def test_wide_directories(tmp_path: Path) -> None:
    """Directories of thousands of files and directories are found by each name."""
    # Beyond 4,096 entries a listing is lazy, and gone through twice.
    wide = {f"w/{number:05}": "" for number in range(4500)}
    deep = {f"d/{number:05}/f": "" for number in range(4200)}
    layers = [layer(wide | deep), layer({"w/.wh.00001": "", "d/00002/g": ""})]
    assert compare(layers, tmp_path) > 40_000
