"""set_preload(): modules that process workers have from their beginning (docs/design/workers.md, the zygote)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

from freethreading._loaded import loaded

_names: tuple[str, ...] = ()


def set_preload(modules: Iterable[str]) -> None:
    """Names modules that are imported once, in the process that workers are forked from, and not once a worker:
    ``set_preload(["numpy", "mypackage.tasks"])``.

    Workers start with them, in a few milliseconds, and share their memory until they write to it. To be called before the
    program's first process worker; the last call counts. Threads share all modules anyway: there it does nothing.

    Seldom needed: the main module is imported so wherever it can be, and so is the module of each function that workers are
    given, with the first call. This is for what they would import later, by themselves. A module that fails to import,
    takes longer than ten seconds, starts a thread, sets a signal handler or opens a socket is left out: who needs it then
    imports it for himself. (NumPy's BLAS starts threads where threadpoolctl is not installed.)

    Raises TypeError and ValueError for what cannot be a module's name, ModuleNotFoundError where there is no such module or
    package, RuntimeError once there are process workers. As :func:`multiprocessing.set_forkserver_preload`.
    """
    global _names
    if isinstance(modules, str):
        raise TypeError(f"modules must be names, as in [{modules!r}], not the string {modules!r}")
    names = tuple(modules)
    for name in names:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a module's name must be a str, not {name!r}")
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is not a module's full name")
        top = name.partition(".")[0]
        if top != "__main__" and importlib.util.find_spec(top) is None:
            raise ModuleNotFoundError(f"there is no module {top!r} that workers could import", name=top)
    supervisor: Any = loaded("freethreading._supervisor")
    if supervisor is not None and supervisor.pid():
        raise RuntimeError("set_preload() comes too late: process workers have been started already")
    _names = tuple(name for name in names if name != "__main__")


def preloaded() -> tuple[str, ...]:
    """The names that were given last."""
    return _names
