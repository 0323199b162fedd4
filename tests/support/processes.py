"""Reads from /proc which processes, descriptors and shared objects belong to this program."""

from __future__ import annotations

import os
from pathlib import Path

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


def descendants(root: int | None = None) -> set[int]:
    """Process ids of all live descendants of `root` (this process when left out); zombies do not count."""
    parents = _parents()
    found: set[int] = set()
    frontier = {os.getpid() if root is None else root}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found


def command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "(ended)"


def infrastructure() -> set[int]:
    """The supervisor and the zygote, and multiprocessing's own servers: they stay for the program's life."""
    marks = ("ft-supervisor", "freethreading._zygote", "multiprocessing.forkserver", "multiprocessing.resource_tracker")
    workers = set(worker_pids())
    return {pid for pid in descendants() if pid not in workers and any(mark in command(pid) for mark in marks)}


def worker_pids() -> list[int]:
    """Worker processes that this program knows of."""
    import freethreading

    return [pid for worker in freethreading.active_children() if (pid := worker.pid) and pid != os.getpid()]


def descriptors() -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def infrastructure_descriptors() -> set[tuple[int, str]]:
    """The session's region and the channels to the supervisor and multiprocessing's servers, opened once a program."""
    return {(number, target) for number, target in descriptors() if "memfd:freethreading" in target}


def region_objects() -> int:
    from freethreading import _core

    usage = _core.session_usage()
    return 0 if usage is None else usage["objects"]
