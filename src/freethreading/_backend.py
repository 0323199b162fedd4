"""Which back end a new object gets. Looked up each time; remembered is only whether the GIL was off at the import."""

from __future__ import annotations

import os
import sys
import types

from freethreading._core import get_backend as get_backend
from freethreading._exceptions import BackendChangedWarning
from freethreading._loaded import loaded

__all__ = ["backend_of_workers", "get_backend", "process_backend", "strict_mode"]

BACKEND_VARIABLE = "FREETHREADING_BACKEND"
STRICT_VARIABLE = "FREETHREADING_STRICT"

# The interpreter's own question; a test's stand-in for it is no builtin.
_gil_question = getattr(sys, "_is_gil_enabled", None)
_gil_was_off = isinstance(_gil_question, types.BuiltinFunctionType) and not _gil_question()
_modules_at_import = len(sys.modules)
# How CPython's warning about such a module begins.
_GIL_ENABLED = "The global interpreter lock (GIL) has been enabled to load module '"


def process_backend() -> bool:
    """Whether an object made now is for processes; a ValueError for a bad ``FREETHREADING_BACKEND``."""
    return get_backend() == "multiprocessing"


def backend_of_workers() -> bool:
    """process_backend(), asked when workers are made: the first time that the GIL has come back, it warns."""
    processes = process_backend()
    if processes and _gil_was_off and not os.environ.get(BACKEND_VARIABLE):
        _look_at_gil()
    return processes


def strict_mode() -> bool:
    """Whether threads check that what they are given would pickle (``FREETHREADING_STRICT`` set, and not to 0)."""
    return os.environ.get(STRICT_VARIABLE, "") not in ("", "0")


def _look_at_gil() -> None:
    global _gil_was_off
    if getattr(sys, "_is_gil_enabled", None) is not _gil_question:
        return
    _gil_was_off = False  # it does not go off again; where this warning is an error, the next worker is made
    if sys.version_info >= (3, 13):
        import warnings  # not needed to make a Lock

        warnings.warn(
            f"the GIL was turned on by the import of {_culprit()}: workers that are made from now on are processes. "
            "PYTHON_GIL=0 keeps it off at your own risk; FREETHREADING_BACKEND names a back end whatever the GIL is",
            BackendChangedWarning,
            skip_file_prefixes=(os.path.dirname(__file__),),
        )


def _culprit() -> str:
    # CPython names the module in a warning of its own, which leaves its text here unless warnings are ignored.
    bootstrap = loaded("_frozen_importlib")
    registry: dict[object, object] = getattr(bootstrap, "__warningregistry__", {})
    for key in map(str, registry):
        if _GIL_ENABLED in key:
            return key.partition(_GIL_ENABLED)[2].partition("'")[0]
    suspects = [
        name
        for name, module in list(sys.modules.items())[_modules_at_import:]
        if type(getattr(getattr(module, "__spec__", None), "loader", None)).__name__ == "ExtensionFileLoader"
    ]
    if not suspects:
        return "an extension module"
    return "an extension module, one of these: " + ", ".join(suspects)
