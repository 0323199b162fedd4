"""_core.pyi beside the built module: neither has a name that the other lacks (mypy's stubtest compares the signatures)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import freethreading
from freethreading import _core

STUB = ast.parse(Path(freethreading.__file__).with_name("_core.pyi").read_text(encoding="utf-8"))
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
MEMBERS_OF_PROXIES = {"__reduce__", "__copy__", "__deepcopy__"}
ONLY_WITH_CRASH_POINTS = {"set_crash_point", "list_crash_points"}
# What every type or module has, and what annotations have no need of.
EVERYWHERE = {
    "__buffer__",  # a method from Python 3.12 on only
    "__release_buffer__",  # and so is this
    "__new__",
    "__init__",
    "__repr__",
    "__doc__",
    "__module__",
    "__weaklistoffset__",
    "__class_getitem__",
    "__setattr__",
    "__delattr__",
}


def defined_in(body: list[ast.stmt]) -> set[str]:
    names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    return names | {
        node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def members_of(node: ast.ClassDef) -> set[str]:
    """Its own, and those of a base that only the stub has: each type has these itself."""
    found = defined_in(node.body)
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in CLASSES:
            found |= members_of(CLASSES[base.id]) & MEMBERS_OF_PROXIES
    return found


def types_only(name: str) -> bool:
    return name.startswith("_")


def test_names() -> None:
    stub = {name for name in {*CLASSES, *defined_in(STUB.body)} if not types_only(name)}
    module = {name for name in vars(_core) if not name.startswith("__")}
    assert stub - ONLY_WITH_CRASH_POINTS == module - ONLY_WITH_CRASH_POINTS


@pytest.mark.parametrize("name", [name for name in CLASSES if not types_only(name)])
def test_members(name: str) -> None:
    here = vars(getattr(_core, name))
    assert members_of(CLASSES[name]) - EVERYWHERE == set(here) - EVERYWHERE
