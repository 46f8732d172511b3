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

# The ground, which everybody may stand on: the errors, and two interfaces between packages.
GROUND = {"", "errors", "filesystem", "progress", "text"}

# Packages in the order of the way, each with the packages it may know besides itself.
PACKAGES: dict[str, set[str]] = {
    "image": set(),
    "tar": set(),
    "host": {"image"},
    "store": {"image", "host"},
    "index": {"image", "tar", "host"},
    "archive": {"image", "tar", "host", "store", "index"},
    "engine": {"image", "tar", "host", "store", "index", "archive"},
    "registry": {"image", "host", "store", "archive"},
    "source": {"image", "host", "store", "index", "archive", "engine", "registry"},
    "vfs": {"image", "tar", "host", "index"},
    "tree": {"image", "tar", "host", "store", "index", "source", "vfs"},
    "report": {"image", "host", "index", "vfs", "tree"},
    "scanning": {"image", "host", "store", "index", "source", "vfs"},
    "fuse": {"host"},
    "erofs": {"image", "host", "index", "vfs"},
    "overlay": {"tar", "host"},
    "mounts": {"image", "host", "vfs", "fuse", "erofs", "overlay"},
    "run": {"image", "host", "fuse", "overlay"},
}
# The command line joins everything, so it may know all, and nobody may know it.
COMMAND_LINE = {"cli", "__main__"}

HEAVY = (
    "requests",
    "rich",
    "ctypes",
    "isal",
    "fuse",
    "http.client",
    "multiprocessing",
    "jinja2",
    "squarify",
)


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


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_its_row() -> None:
    """A new package is put into the table, or its imports are nobody's business."""
    tops = {package_of(module) for module in MODULES}
    assert tops - COMMAND_LINE == GROUND | set(PACKAGES)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_imports_point_one_way(package: str) -> None:
    """A module imports from its own package, the ground, and those that the table allows it."""
    allowed = {package, *GROUND, *PACKAGES[package]}
    for module, path in MODULES.items():
        if package_of(module) == package:
            for other in imported(path):
                assert package_of(other) in allowed, f"{module} must not import {other}"


def test_the_ground_stands_on_nothing() -> None:
    """What everybody may import, imports nothing but errors and text."""
    for module in GROUND - {""}:
        assert set(imported(MODULES[module])) <= {"", "errors", "text"}, module


def test_the_package_itself_loads_nothing() -> None:
    """It hands out `open_image`, whose modules are loaded when it is asked for, not before."""
    assert set(imported(MODULES[""])) == {"scanning.scan", "tree.opening"}
    loaded = loaded_by("import imagefs")
    assert not [name for name in loaded if name.startswith("imagefs.")]
    assert "imagefs.tree.opening" in loaded_by("from imagefs import open_image")


def test_packages_know_none_that_come_later() -> None:
    """The table has an order, so that no two packages can come to need each other."""
    packages = list(PACKAGES)
    for number, (package, knows) in enumerate(PACKAGES.items()):
        later = knows - set(packages[:number])
        assert not later, f"{package} knows {later}"


def loaded_by(statement: str) -> set[str]:
    """The modules that an interpreter has loaded after a statement."""
    program = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return set(done.stdout.decode().split())


@pytest.mark.parametrize(
    "statement",
    [
        "import imagefs",
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
    loaded = loaded_by("import imagefs.fuse.server")
    modules = {name.removeprefix("imagefs.") for name in loaded if name.startswith("imagefs.")}
    assert {package_of(module) for module in modules} <= {*GROUND, "image", "host", "fuse"}
