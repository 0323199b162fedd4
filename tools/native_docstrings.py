"""Griffe extension for the reference: gives the classes and functions of _core.pyi the docstrings that the module has."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import griffe

NATIVE = "freethreading._core"


class NativeDocstrings(griffe.Extension):
    """Imports the installed extension module once the stub has been read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ARG002
        """Called for everything that was read, native or not."""
        if obj.docstring is not None or not obj.path.startswith(NATIVE + "."):
            return
        found: Any = importlib.import_module(NATIVE)
        for name in obj.path.removeprefix(NATIVE + ".").split("."):
            found = getattr(found, name, None)
        text = (
            inspect.getdoc(found)
            if obj.is_class or obj.is_function or inspect.isgetsetdescriptor(found)
            else None
        )
        if text:
            obj.docstring = griffe.Docstring(text, parent=obj)
