"""What docstrings promise of errors: a public function names those that it raises."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import imagefs

PACKAGE = Path(imagefs.__file__).parent
# Commands are called by nobody, and their docstrings are what --help prints.
MODULES = {
    path.relative_to(PACKAGE): ast.parse(path.read_bytes())
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent.name != "cli"
}


def errors_of(modules: Iterable[ast.Module]) -> frozenset[str]:
    """Return the names of ImagefsError and of all that is derived from it."""
    classes = [
        node for module in modules for node in ast.walk(module) if isinstance(node, ast.ClassDef)
    ]
    found = {"ImagefsError"}
    for _ in classes:
        found |= {
            one.name for one in classes if {getattr(up, "id", "") for up in one.bases} & found
        }
    return frozenset(found)


ERRORS = errors_of(MODULES.values())
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Raising(NamedTuple):
    """A public function, and the errors that its own lines raise."""

    where: str
    docstring: str
    raised: frozenset[str]


def public(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, Function]]:
    """Yield the functions of a module, and the methods of its classes, that others may call."""
    for node in ast.iter_child_nodes(tree):
        name = getattr(node, "name", "_")
        if name.startswith("_"):
            continue
        if isinstance(node, Function):
            yield f"{inside}{name}", node
        elif isinstance(node, ast.ClassDef):
            yield from public(node, f"{inside}{name}.")


def own_lines(function: Function) -> Iterator[ast.AST]:
    """Yield what is in a function, but not in one that is defined in it."""
    waiting: list[ast.AST] = list(function.body)
    for node in waiting:
        yield node
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def raised_by(function: Function) -> frozenset[str]:
    found = set()
    for node in own_lines(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            made = node.exc.func
            found.add(made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", ""))
    return ERRORS & found


def raising() -> list[Raising]:
    found = []
    for path, module in MODULES.items():
        for name, function in public(module):
            if raised := raised_by(function):
                where = f"{path}: {name}"
                found.append(Raising(where, ast.get_docstring(function) or "", raised))
    return found


@pytest.mark.parametrize("one", raising(), ids=lambda one: one.where)
def test_who_raises_an_error_says_so(one: Raising) -> None:
    """Whoever calls a function reads in its docstring what to expect of it."""
    assert {name for name in one.raised if name not in one.docstring} == set()


def test_there_are_functions_that_raise() -> None:
    """The search finds what it is to find: functions, methods, and errors of several kinds."""
    found = raising()
    assert len(found) > 20
    assert any("." in one.where.rpartition(": ")[2] for one in found)
    assert len(frozenset().union(*(one.raised for one in found))) > 4
