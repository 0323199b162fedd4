"""Reads from /proc which processes, descriptors and shared objects belong to this program."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

PROC = Path("/proc")


class Table:
    """The processes of the system at one moment: who is whose parent, and when each began. Zombies do not count."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self._began: dict[int, int] = {}
        for name in os.listdir(PROC):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb", 0) as file:  # for every test: no Path
                        fields = file.read().rpartition(b")")[2].split()
                except OSError:
                    continue  # it has just ended
                if fields[0] != b"Z":
                    self.parents[int(name)] = int(fields[1])
                    self._began[int(name)] = int(fields[19])

    def descendants(self, root: int) -> set[int]:
        found: set[int] = set()
        frontier = {root} if root else set()
        while frontier:
            frontier = {pid for pid, parent in self.parents.items() if parent in frontier} - found
            found |= frontier
        return found

    def ours(self) -> set[int]:
        """The processes of this program: its descendants, its supervisor, and that one's descendants."""
        supervisor = self.supervisor()
        return self.descendants(os.getpid()) | self.descendants(supervisor) | ({supervisor} - {0})

    def supervisor(self) -> int:
        """0: there is none."""
        pid = supervisor_pid()
        return pid if pid in self.parents else 0

    def zygotes(self) -> set[int]:
        """The zygote, with the fork of it that has the main module; none while it boots."""
        # What it has forked has its name until it gives itself one. Others may be older: they outlive a zygote.
        named = [pid for pid in self._children_of_supervisor() if name(pid) == "ft-zygote"]
        first = min(named, key=self._began.__getitem__, default=0)
        return ({first} | self.descendants(first)) - {0}

    def spares(self) -> set[int]:
        """The supervisor's children that wait to become workers."""
        children = self._children_of_supervisor()
        return {pid for pid in children if name(pid) in {"ft-spare", "ft-zygote"}} - self.zygotes()

    def _children_of_supervisor(self) -> list[int]:
        supervisor = self.supervisor()
        return [pid for pid, parent in self.parents.items() if supervisor and parent == supervisor]

    def infrastructure(self) -> set[int]:
        """The supervisor, the zygote and the spares, and multiprocessing's own servers."""
        marks = ("multiprocessing.forkserver", "multiprocessing.resource_tracker")
        servers = {
            pid for pid in self.descendants(os.getpid()) if any(mark in command(pid) for mark in marks)
        }
        return servers | self.zygotes() | self.spares() | ({self.supervisor()} - {0})


def alive() -> set[int]:
    """Every process of the system that has not ended; zombies have."""
    return set(Table().parents)


def ours() -> set[int]:
    return Table().ours()


def zygotes() -> set[int]:
    return Table().zygotes()


def spares() -> set[int]:
    return Table().spares()


def supervisor_pid() -> int:
    """The supervisor that was started last, which may have ended; 0: none was."""
    module: Any = sys.modules.get("freethreading._supervisor")
    return module.pid() if module is not None else 0


def name(pid: int) -> str:
    """What ps shows beside the command line; empty: the process has ended."""
    try:
        return (PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def command(pid: int) -> str:
    try:
        return (
            (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
    except OSError:
        return "(ended)"


def descriptors() -> set[tuple[int, str]]:
    found: set[tuple[int, str]] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def infrastructure_descriptors() -> set[tuple[int, str]]:
    """What a program opens once: the session's region; multiprocessing's heap, and the pipes of its servers."""
    marks = ("memfd:freethreading", "/pym-")
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    forkserver: Any = sys.modules.get("multiprocessing.forkserver")
    numbers = {tracker._resource_tracker._fd if tracker is not None else None}
    numbers.add(forkserver._forkserver._forkserver_alive_fd if forkserver is not None else None)
    return {
        (n, target) for n, target in descriptors() if n in numbers or any(mark in target for mark in marks)
    }


def holders(inode: int) -> set[int]:
    """The processes that have the session open whose memory is that file."""
    found: set[int] = set()
    for pid in alive():
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{number}"
                with contextlib.suppress(OSError):
                    if "/memfd:freethreading" in os.readlink(path) and os.stat(path).st_ino == inode:
                        found.add(pid)
    return found


def region_objects() -> int:
    from freethreading import _core

    usage = _core.session_usage()
    return 0 if usage is None else usage["objects"]
