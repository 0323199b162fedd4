"""What a main file binds only under its ``if __name__ == "__main__"``, found in its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_OWN_VARIABLES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Guarded(NamedTuple):
    """Names that importing the file does not bind; ``definitions``: those of functions and classes, encoded."""

    names: frozenset[str]
    definitions: tuple[bytes, ...]


def guarded(source: str | bytes) -> Guarded | None:
    """None: the file has no guard at its top level, or does not parse."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    guards = [node for node in body if isinstance(node, ast.If) and _is_guard(node.test)]
    if not guards:
        return None
    outside: set[str] = {name for node in body if node not in guards for name, _ in _bound([node])}
    outside.update(name for guard in guards for name, _ in _bound(guard.orelse))
    inside = [(n, kind) for guard in guards for n, kind in _bound(guard.body) if n not in outside]
    definitions = sorted({name.encode() for name, definition in inside if definition})
    return Guarded(frozenset(name for name, _ in inside), tuple(definitions))


def _is_guard(test: ast.expr) -> bool:
    nodes = list(ast.walk(test))
    named = any(isinstance(n, ast.Name) and n.id == "__name__" for n in nodes)
    return named and any(isinstance(n, ast.Constant) and n.value == "__main__" for n in nodes)


def _bound(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, bool]]:
    """The module's names that these statements bind, and whether as a function or class."""
    for node in nodes:
        if isinstance(node, _SCOPES):
            yield node.name, True
        elif isinstance(node, _OWN_VARIABLES):
            continue
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                yield node.id, False
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0], False
        else:
            if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
                yield node.name, False
            yield from _bound(ast.iter_child_nodes(node))
