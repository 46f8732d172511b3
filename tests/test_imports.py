"""Who may import whom. Bytes flow one way, from what the user typed to the kernel, and a module
knows only what lies before it on that way."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imagefs

PACKAGE = Path(imagefs.__file__).parent

# Rooms in the order of the way, each with the rooms it may know besides itself and `values`.
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "values": (
        {
            "",
            "errors",
            "image",
            "shortid",
            "files",
            "hashing",
            "imageconfig",
            "platform",
            "answers",
            "lifeline",
            "lease",
        },
        set(),
    ),
    "host": ({"mountinfo", "daemon"}, set()),
    "progress": ({"progress"}, set()),
    "reference": ({"reference"}, set()),
    "tar": ({"tarfmt", "tarnumber", "sparse", "pax", "tarscan", "tarstream"}, set()),
    "store": ({"store", "refs", "upkeep", "prune"}, {"progress"}),
    "compression": ({"compression"}, set()),
    "engine": (
        {"connection", "sshpipe", "engine", "exportstream", "receive", "fetch"},
        {"reference", "tar", "store", "progress", "compression"},
    ),
    "formats": ({"formats"}, {"reference", "tar", "store", "progress", "compression"}),
    "index": (
        {"rows", "packed", "fold", "folded", "index", "indexbuild", "indexfile", "indexwrite"},
        {"tar"},
    ),
    "source": ({"source"}, {"reference", "progress", "store", "engine", "formats", "index"}),
    "apart": ({"apart"}, {"progress", "store", "engine", "index"}),
    "tree": ({"layer", "merge", "view", "nodeid"}, {"index"}),
    "filesystem": ({"filesystem"}, set()),
    "vfs": ({"synthetic", "summary", "wide", "vfs", "catalog"}, {"index", "tree", "filesystem"}),
    "fuse": ({"fuse"}, {"filesystem", "host"}),
    "mounts": ({"mounts", "serving"}, {"filesystem", "fuse", "host"}),
}
# The command line joins everything, so all may know what it needs, and nobody may know it.
COMMAND_LINE = {"cli", "commands", "cachecommands", "mounthelper", "tables", "__main__"}

# Single ways between modules of different rooms that are there for a reason.
EXCEPTIONS = {
    ("merge", "tarfmt"): "a whiteout is an entry whose name begins with its prefix",
}

HEAVY = ("requests", "rich", "ctypes", "isal", "fuse", "http.client", "multiprocessing")


def module_name(path: Path) -> str:
    """`fuse.abi` for imagefs/fuse/abi.py; the package itself is the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """The modules of imagefs that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "imagefs":
                inside = name.removeprefix("imagefs").removeprefix(".")
                yield inside if inside in MODULES else inside.rpartition(".")[0]


def room_of(module: str) -> str:
    top = module.partition(".")[0]
    return next(room for room, (members, _) in ROOMS.items() if top in members)


def test_every_module_has_its_room() -> None:
    """A new module is put into one room of the table, or its import is nobody's business."""
    listed = [member for members, _ in ROOMS.values() for member in members]
    tops = {module.split(".")[0] for module in MODULES}
    assert sorted(tops - COMMAND_LINE) == sorted(listed)


@pytest.mark.parametrize("module", sorted(set(MODULES) - COMMAND_LINE))
def test_imports_point_one_way(module: str) -> None:
    """A module imports from its own room and from those that the table allows it."""
    room = room_of(module)
    allowed = {room, "values", *ROOMS[room][1]}
    for other in imported(MODULES[module]):
        assert other not in COMMAND_LINE, f"imagefs.{module} knows the command line"
        if (module, other) not in EXCEPTIONS:
            assert room_of(other) in allowed, f"imagefs.{module} must not import imagefs.{other}"


def test_exceptions_are_made_use_of() -> None:
    """An exception goes when its reason has gone."""
    assert all(other in imported(MODULES[module]) for module, other in EXCEPTIONS)


def test_rooms_know_none_that_come_later() -> None:
    """The table has an order, so that no two rooms can come to need each other."""
    rooms = list(ROOMS)
    for number, (room, (_, knows)) in enumerate(ROOMS.items()):
        assert knows <= set(rooms[:number]), f"{room} knows {knows - set(rooms[:number])}"


def loaded_by(statement: str) -> set[str]:
    """The modules that an interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(done.stdout.decode().split())


@pytest.mark.parametrize(
    "statement",
    [
        "import imagefs.cli.main",
        "import imagefs.vfs.image_fs, imagefs.fuse.server",
        "from imagefs.cli.main import run; run(['--help'])",
    ],
)
def test_starting_costs_nothing_that_is_not_needed(statement: str) -> None:
    """What takes long to import is imported by who needs it, when it is needed."""
    assert not loaded_by(statement) & set(HEAVY)


def test_the_drivers_know_nothing_of_images() -> None:
    """FUSE can be served without a line of code about tars, layers or engines."""
    loaded = {name for name in loaded_by("import imagefs.fuse.server") if "imagefs." in name}
    rooms = {room_of(name.removeprefix("imagefs.")) for name in loaded}
    assert rooms <= {"values", "host", "filesystem", "fuse"}
