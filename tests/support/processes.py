"""Reads from /proc which processes, descriptors and shared objects belong to this program."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

PROC = Path("/proc")


def _parents() -> dict[int, int]:
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    return parents


def alive() -> set[int]:
    """Process ids of all processes that are no zombies."""
    return set(_parents())


def descendants(*roots: int) -> set[int]:
    """Process ids of all live descendants of `roots`; zombies do not count."""
    parents = _parents()
    found: set[int] = set()
    frontier = set(roots)
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found


def ours() -> set[int]:
    """The processes of this program: its descendants, its supervisor, and that one's descendants."""
    supervisor = supervisor_pid()
    found = descendants(os.getpid())
    return found | {supervisor} | descendants(supervisor) if supervisor else found


def supervisor_pid() -> int:
    """0: there is none."""
    module: Any = sys.modules.get("freethreading._supervisor")
    pid: int = module.pid() if module is not None else 0
    return pid if pid in _parents() else 0


def zygotes() -> set[int]:
    """The zygote, with the fork of it that has the main module: the supervisor's first child."""
    supervisor = supervisor_pid()
    children = [pid for pid, parent in _parents().items() if parent == supervisor]
    first = min(children, key=_start_time, default=0)
    return {first} | descendants(first) if first else set()


def _start_time(pid: int) -> int:
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 1 << 62  # it has just ended


def command(pid: int) -> str:
    try:
        return (
            (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
    except OSError:
        return "(ended)"


def infrastructure() -> set[int]:
    """The supervisor and the zygote, and multiprocessing's own servers: they stay for the program's life."""
    marks = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
    servers = {pid for pid in descendants(os.getpid()) if any(mark in command(pid) for mark in marks)}
    return servers | zygotes() | {supervisor_pid()}


def descriptors() -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def infrastructure_descriptors() -> set[tuple[int, str]]:
    """What a program opens once: the session's region; multiprocessing's heap and its tracker's pipe."""
    marks = ("memfd:freethreading", "/pym-")
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    number = tracker._resource_tracker._fd if tracker is not None else None
    return {
        (n, target) for n, target in descriptors() if n == number or any(mark in target for mark in marks)
    }


def region_objects() -> int:
    from freethreading import _core

    usage = _core.session_usage()
    return 0 if usage is None else usage["objects"]
