"""Programs that are looked at from outside while they wait, as another user too."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import processes
from support.worker_programs import environment

# Says what it is, and waits until its standard input is closed.
TELL = """
session, descriptor = _core.session_open()
told = {"supervisor": _supervisor.pid(), "session": session, "descriptor": descriptor, "handle": _core.handle_of(queue).hex()}
print(json.dumps({**told, **more}), flush=True)
sys.stdin.read()
"""
# With a worker that waits.
WITH_WORKER = f"""
import json, os, subprocess, sys
from freethreading import Event, Queue, Worker, _core, _supervisor

def inherited():
    listing = ["ls", "-l", "/proc/self/fd"]
    return subprocess.run(listing, close_fds=False, stdout=subprocess.PIPE, text=True, check=True).stdout

def serve(queue, item, end):
    queue.put((os.getpid(), inherited()))
    end.wait(60)

os.environ["SET_BEFORE"] = "before"
queue, end = Queue(), Event()
Worker(target=serve, args=(queue, "sent-item", end), daemon=True).start()
worker, its_children_have = queue.get(timeout=30)
del os.environ["SET_BEFORE"]
queue.put("theirs")
more = {{"worker": worker, "inherited": [inherited(), its_children_have]}}
{TELL}"""
# As the user whose number it is given, as if it had been run by that user; who may have no access to where the package is.
OF_A_USER = f"""
import ctypes, json, os, sys
from freethreading import Queue, _core, _session, _supervisor
if os.getuid() != int(sys.argv[1]):
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
    PR_SET_DUMPABLE = 4
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1) == 0
queue, more = Queue(), {{}}
queue.put("theirs")
{TELL}"""


class LiveProgram:
    """Runs until the with statement ends, on the process back end."""

    def __init__(self, code: str, *args: str, folder: Path | None = None, **more: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            env=environment(**more),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.told: dict[str, Any] = json.loads(self._process.stdout.readline())
        self.supervisor: int = self.told["supervisor"]
        self.session: int = self.told["session"]
        self.descriptor: int = self.told["descriptor"]
        self.handle = bytes.fromhex(self.told["handle"])

    def __enter__(self) -> LiveProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=30)

    @property
    def memory(self) -> str:
        """Where /proc has the session's descriptor."""
        return f"/proc/{self.pid}/fd/{self.descriptor}"

    def ours(self) -> set[int]:
        """The program, its supervisor, zygote, spares and workers."""
        table = processes.Table()
        return {self.pid, self.supervisor} | table.descendants(self.supervisor)

    def descriptors(self) -> dict[tuple[int, int], tuple[str, bool]]:
        """What (process, number) leads to, and whether it is closed on exec; of the standard streams nothing is said."""
        found: dict[tuple[int, int], tuple[str, bool]] = {}
        close_on_exec = 0o2000000
        for pid in self.ours():
            try:
                for number in map(int, os.listdir(f"/proc/{pid}/fd")):
                    if number > 2:
                        target = os.readlink(f"/proc/{pid}/fd/{number}")
                        info = Path(f"/proc/{pid}/fdinfo/{number}").read_text().split()
                        flags = int(info[info.index("flags:") + 1], 8)
                        found[pid, number] = (target, bool(flags & close_on_exec))
            except OSError:
                continue  # a spare that has just ended
        return found

    def unix_sockets(self) -> dict[str, str]:
        """Its Unix sockets, and their names."""
        ours = {file for file, _ in self.descriptors().values()}
        rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()[1:]]
        of_all = {f"socket:[{row[6]}]": "".join(row[7:]) for row in rows}
        return {file: name for file, name in of_all.items() if file in ours}

    def shared_mappings(self) -> set[str]:
        """What its processes have mapped to write to it and to share it, as /proc names it."""
        areas = [row.split(maxsplit=5) for row in self._memory("maps")]
        return {area[5] for area in areas if re.match("rw.s", area[1]) and len(area) > 5}

    def flags_of_memory(self) -> list[set[str]]:
        """What the kernel says of each mapping of the session's memory (proc(5), VmFlags)."""
        found: list[set[str]] = []
        is_it = False
        for row in self._memory("smaps"):
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", row):
                is_it = "/memfd:freethreading " in row
            elif is_it and row.startswith("VmFlags:"):
                found.append(set(row.split()[1:]))
        assert len(found) >= 3  # program, supervisor, worker
        return found

    def _memory(self, file: str) -> list[str]:
        rows: list[str] = []
        for pid in self.ours():
            with contextlib.suppress(OSError):  # a spare that has just ended
                rows += Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return rows

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(30)


def as_user(uid: int, function: Callable[[], object]) -> str:
    """What function() returns, or what it raises, as text: in a fork of this process that is that user's."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there may be threads
        child = os.fork()
    if child == 0:
        answer = ""
        try:
            if uid != os.geteuid():
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            answer = str(function())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, answer.encode())
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer
