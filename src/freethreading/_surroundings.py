"""What code may find around it that is not in its modules: a worker, and what the zygote imports, get the program's."""

from __future__ import annotations

import os
import sys
from typing import TypedDict


class Surroundings(TypedDict):
    """Those of a process, as plain data."""

    environ: dict[bytes, bytes]
    folder: str | None  # None: it is gone; who takes these stays where it is
    path: list[str]
    argv: list[str]


_environ: dict[bytes, bytes] | None = None  # this process's, where it is known already


def environment() -> dict[bytes, bytes]:
    """This process's environment."""
    # The mapping's own dict, where it has one: copied at once, which other threads cannot disturb, and much faster.
    found: dict[bytes, bytes] | None = getattr(os.environb, "_data", None)
    return dict(os.environb if found is None else found)


def surroundings(environ: dict[bytes, bytes]) -> Surroundings:
    """This process's, but for the environment, which is given."""
    try:
        folder: str | None = os.getcwd()
    except FileNotFoundError:
        folder = None
    return Surroundings(environ=environ, folder=folder, path=list(sys.path), argv=list(sys.argv))


def expect() -> None:
    """Notes what the environment is now, so that take() finds out soon what is to be changed."""
    global _environ
    _environ = dict(os.environb)


def take(here: Surroundings) -> None:
    """Makes them this process's."""
    global _environ
    environ = here["environ"]
    if environ != _environ:
        for name in list(os.environb):
            if name not in environ:
                del os.environb[name]
        for name, value in environ.items():
            if os.environb.get(name) != value:
                os.environb[name] = value
        _environ = environ
    if here["folder"] is not None:
        os.chdir(here["folder"])
    sys.path[:] = here["path"]
    sys.argv[:] = here["argv"]
