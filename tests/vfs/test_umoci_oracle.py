"""`rootfs` against what umoci unpacks, where it is the one that the decisions follow.

Docker and Podman refuse such layers, or lay them out by the union file system of their host.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import samples
from tests.support.needs import need_tool
from tests.support.samples import SampleImage
from tests.support.tars import layer
from tests.vfs.test_semantics import ROWS

AS_UMOCI = (
    "file below a symlink to a lower layer's directory",
    "whiteout below a symlink to a lower layer's directory",
    "file below two symlinks to a lower layer's directory",
    "file below a dangling symlink, same layer",
    "file below an absolute symlink of the same layer",
    "hard link to a lower layer's file",
    "hard link through two layers",
    "hard link before its target is written anew",
    "hard link before its target becomes a symlink",
    "hard link to a hard link before its target is written anew",
    "hard links that reach a lower file through each other",
    "hard link through a symlink of a lower layer",
    "hard link through symlinks of two lower layers",
    "hard link through a symlink of its own layer to a lower directory",
    "a hard link keeps the first of two",
    "names of eStargz",
    "names are cleaned and never leave the root",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="umoci unpacks owners as root only")
@pytest.mark.parametrize("name", AS_UMOCI)
def test_rows_are_as_umoci_unpacks(name: str, tmp_path: Path) -> None:
    """The row of the semantics' table is what umoci leaves on the disk."""
    layers, expected = ROWS[name]
    image = SampleImage(tuple(map(layer, layers)))
    samples.unpack(tmp_path / "oci", samples.oci_layout(image))
    tag = image.names[0].rpartition(":")[2]
    index = tmp_path / "oci/index.json"
    index.write_text(index.read_text().replace(image.names[0], tag))
    command = [need_tool("umoci", "umoci"), "unpack", "--image", f"{tmp_path}/oci:{tag}"]
    done = subprocess.run([*command, str(tmp_path / "out")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert on_disk(tmp_path / "out/rootfs") == expected


def on_disk(root: Path) -> dict[str, str]:
    """Return what a tree holds, in the words of `tests.support.tars.shown`."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder, name)
            shown = str(path.relative_to(root))
            if path.is_symlink():
                found[shown] = f"-> {os.readlink(path)}"
            elif path.is_dir():
                found[shown + "/"] = ""
            else:
                found[shown] = path.read_text()
    return found
