"""docs/guide/security.md has a line for each claim about who can reach what, and each line is true."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from freethreading import HandleGoneError, Lock, Queue, WorkerPool, _core
from support import processes
from support.live_program import OF_A_USER, WITH_WORKER, LiveProgram, as_user
from support.program import run_program
from support.shared import just
from support.until import until
from support.worker_programs import answers, environment

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "security.md"
SOMEBODY, SOMEBODY_ELSE = 65533, 65534  # users who own nothing

Check = Callable[[Path], None]  # is given an empty folder
CHECKS: dict[str, Check] = {}


def line(what: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[what] = check
        return check

    return register


def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: only that can become another user")


# --- who can reach a session


@line("workers that are threads")
def threads(_: Path) -> None:
    done = run_program(
        """
        import os
        from freethreading import Lock, Queue, Worker, WorkerPool, _core
        queue = Queue()
        Worker(target=queue.put, args=(Lock(),)).start()
        queue.get(timeout=30)
        with WorkerPool(2) as pool:
            pool.map(abs, range(10))
        files = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
        children = open(f"/proc/self/task/{os.getpid()}/children").read()
        print(_core.session_usage(), [file for file in files if "memfd:" in file], repr(children))
        """,
        "threading",
    )
    assert done.stdout.strip() == "None [] ''", done.stderr


@line("names")
def names(_: Path) -> None:
    with LiveProgram(WITH_WORKER) as program:
        nameless = ("/memfd:freethreading", "pipe:[", "socket:[", "anon_inode:")
        files = program.descriptors()
        assert {program.pid, program.supervisor, program.told["worker"]} <= {pid for pid, _ in files}
        named = {file for file, _ in files.values() if not file.startswith(nameless)}
        assert named <= {"/dev/null"}  # a worker's standard input
        assert set(program.unix_sockets().values()) == {""}
        shared = program.shared_mappings()
        assert any(name.startswith("/memfd:freethreading") for name in shared)
        of_forks = "/dev/zero (deleted)"  # memory of a process and its forks, which has no name either
        assert {name for name in shared if not name.startswith("/memfd:freethreading")} <= {of_forks}


@line("the network")
def network(_: Path) -> None:
    with LiveProgram(WITH_WORKER) as program:
        assert program.unix_sockets()

        def others() -> set[str]:
            # One may be closed between the two looks.
            sockets = {file for file, _ in program.descriptors().values() if file.startswith("socket:")}
            return sockets - set(program.unix_sockets())

        until(lambda: not others(), "all sockets are Unix sockets")


@line("temporary files")
def temporary_files(folder: Path) -> None:
    place = str(folder)
    with LiveProgram(WITH_WORKER, folder=folder, TMPDIR=place, HOME=place) as program:
        assert os.listdir(folder) == []
    assert os.listdir(folder) == []
    with LiveProgram(WITH_WORKER, folder=folder, TMPDIR=place, HOME=place) as program:
        program.kill()
        until(lambda: program.supervisor not in processes.alive(), "the supervisor ends")
    assert os.listdir(folder) == []


@line("a program that is run with `subprocess`, by the program or by a worker")
def subprocesses(_: Path) -> None:
    with LiveProgram(WITH_WORKER) as program:
        for listing in program.told["inherited"]:
            targets = re.findall(r" (\d+) -> (.*)$", listing, re.MULTILINE)
            assert {number for number, target in targets if not target.startswith("/proc/")} == {
                "0",
                "1",
                "2",
            }
        handed_over = {(program.supervisor, number) for number in (3, 4, 5)}
        files = program.descriptors()
        assert {where for where, (_, closed) in files.items() if not closed} == handed_over
        assert (program.pid, program.descriptor) in files


@line("the session's descriptor in `pass_fds`")
def pass_fds(_: Path) -> None:
    queue: Queue[str] = Queue()
    queue.put("handed over")
    descriptor = _core.session_open()[1]
    code = """if True:
        import sys
        from freethreading import _core
        _core.session_attach(int(sys.argv[1]))
        print(_core.open_handle(bytes.fromhex(sys.argv[2])).get(timeout=30))
        _core.leave_sessions()
    """
    words = [sys.executable, "-c", code, str(descriptor), _core.handle_of(queue).hex()]
    given = subprocess.run(
        words,
        pass_fds=[descriptor],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert given.stdout == "handed over\n", given.stderr
    refused = subprocess.run(
        words, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert "the session's file descriptor was closed in this process" in refused.stderr


@line("a process that is forked")
def forked(_: Path) -> None:
    queue: Queue[str] = Queue()
    queue.put("for a child")
    assert as_user(os.geteuid(), lambda: queue.get(timeout=30)) == "for a child"


def attach(program: LiveProgram) -> str:
    session = _core.session_attach(os.open(program.memory, os.O_RDWR | os.O_CLOEXEC))
    assert session == program.session
    return str(_core.open_handle(program.handle).get(timeout=30))


def refusals(program: LiveProgram, pids: set[int]) -> set[str]:
    """What meets who tries to get at these processes by all means of /proc."""
    numbers = {where: name for where, (name, _) in program.descriptors().items() if where[0] in pids}
    tries: list[Callable[[], object]] = [lambda: os.open(program.memory, os.O_RDONLY)]
    for pid, number in numbers:
        tries.append(lambda path=f"/proc/{pid}/fd/{number}": os.open(path, os.O_RDONLY))  # type: ignore[misc]
    for pid in pids:
        for path in (f"/proc/{pid}/mem", f"/proc/{pid}/environ", f"/proc/{pid}/maps"):
            tries.append(lambda path=path: os.open(path, os.O_RDONLY))  # type: ignore[misc]
        tries.append(lambda pid=pid: os.listdir(f"/proc/{pid}/map_files"))  # type: ignore[misc]
        tries.append(lambda pid=pid: os.kill(pid, 0))  # type: ignore[misc]

    def outcomes() -> str:
        met: set[str] = set()
        for attempt in tries:
            try:
                met.add(f"reached {attempt()}")
            except OSError as error:
                met.add(type(error).__name__)
        return json.dumps(sorted(met))

    return set(json.loads(as_user(SOMEBODY_ELSE, outcomes)))


@line("a process of another user")
def another_user(_: Path) -> None:
    needs_root()
    with LiveProgram(OF_A_USER, str(SOMEBODY)) as program:
        assert as_user(SOMEBODY_ELSE, lambda: attach(program)).startswith("PermissionError")
        assert refusals(program, {program.pid}) == {"PermissionError"}
    with LiveProgram(WITH_WORKER) as program:  # of root's
        assert as_user(SOMEBODY_ELSE, lambda: attach(program)).startswith("PermissionError")
        pids = {program.pid, program.supervisor, program.told["worker"]}
        assert refusals(program, pids) == {"PermissionError"}


@line("a process of the same user")
def same_user(_: Path) -> None:
    user = SOMEBODY if os.geteuid() == 0 else os.geteuid()
    with LiveProgram(OF_A_USER, str(user)) as program:
        assert as_user(user, lambda: attach(program)) == "theirs"


@line("a process of root's")
def root(_: Path) -> None:
    needs_root()
    with LiveProgram(OF_A_USER, str(SOMEBODY)) as program:
        assert as_user(0, lambda: attach(program)) == "theirs"


@line("the size of the memory")
def size(_: Path) -> None:
    descriptor = _core.session_open()[1]
    before = os.fstat(descriptor).st_size
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    with pytest.raises(PermissionError):
        os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_TRUNC)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
    assert os.fstat(descriptor).st_size == before


# --- what is refused

# Of the region's header: magic, version, id.
HEADER = struct.Struct("<QQQ")
TABLES = 128 << 10  # what every session has from its beginning


@contextmanager
def memory(content: bytes, sealed: bool = True) -> Iterator[int]:
    file = os.memfd_create("foreign", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.pwrite(file, content, 0)
        if sealed:
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        yield file
    finally:
        os.close(file)


def region(version: int = 0, session: int = 0) -> bytes:
    """The beginning of this process's session, with so much added to the header."""
    content = os.pread(_core.session_open()[1], TABLES, 0)
    magic, its_version, its_id = HEADER.unpack_from(content)
    changed = HEADER.pack(magic, its_version + version, its_id ^ session)
    return changed + content[HEADER.size :]


def refuses(descriptor: int, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        _core.session_attach(descriptor)
    if descriptor >= 0:
        os.fstat(descriptor)  # it is the caller's still


@line("a descriptor that is no session's (a pipe, a socket, a file, other memory, a number that was closed)")
def foreign_descriptors(folder: Path) -> None:
    no_session = "is not the memory of a session"
    reader, writer = os.pipe()
    one, other = socket.socketpair()
    with one, other, open(folder / "file", "w+b") as file:
        file.write(bytes(1 << 20))
        file.flush()
        for descriptor in (reader, writer, one.fileno(), file.fileno()):
            refuses(descriptor, no_session)
    os.close(reader)
    os.close(writer)
    for content in (b"", b"text", bytes(1 << 20), pickle.dumps([1, 2, 3])):
        with memory(content) as descriptor:
            refuses(descriptor, no_session)
    refuses(-1, "descriptor was closed in this process")
    with pytest.raises(OverflowError):
        _core.session_attach(_core.session_open()[1] + (1 << 32))


@line("a copy of a session's memory, whole or in part")
def copies(folder: Path) -> None:
    session, descriptor = _core.session_open()
    a_copy = "is a copy of a session's memory"
    other = region(session=1)  # of which this process has no session
    for content, sealed in ((other[:4096], True), (other, False), (region(), True)):
        with memory(content, sealed) as copy:
            refuses(copy, a_copy)
    with open(folder / "copy", "w+b") as file:
        file.write(other)
        file.flush()
        refuses(file.fileno(), a_copy)
    assert not _core.session_attached(session ^ 1)
    assert _core.session_fd(session) == descriptor
    assert Lock(shared=True).acquire(timeout=5)


@line("a session of another version of freethreading")
def other_version(_: Path) -> None:
    for version in (1, -1):
        with memory(region(version, session=1)) as descriptor:
            refuses(descriptor, "another version of freethreading")


@line("a session's descriptor that is open for reading only")
def read_only(_: Path) -> None:
    with memory(region(session=1)) as descriptor:
        with open(f"/proc/self/fd/{descriptor}", "rb") as readable:
            with pytest.raises(PermissionError, match="open for reading only"):
                _core.session_attach(readable.fileno())


@line("a handle with a changed bit (what a pickled lock or queue is)")
def changed_handles(_: Path) -> None:
    lock = Lock(shared=True)
    handle = _core.handle_of(lock)
    assert handle in pickle.dumps(lock)
    for bit in range(8 * len(handle)):
        changed = bytearray(handle)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((HandleGoneError, ValueError)):
            _core.open_handle(bytes(changed))
        with pytest.raises((HandleGoneError, ValueError)):
            _core.WorkerRecord.open(bytes(changed))
    with pytest.raises(ValueError, match="not the handle of a"):
        _core.WorkerRecord.open(handle)
    for wrong in (handle[:-1], handle + b"\0", b""):
        with pytest.raises(ValueError, match="not a handle"):
            _core.open_handle(wrong)


@line("a handle of a session that this process does not have")
def other_session(_: Path) -> None:
    with LiveProgram(WITH_WORKER) as program:
        with pytest.raises(HandleGoneError, match="does not have the memory"):
            _core.open_handle(program.handle)


@line("a handle of an object that is gone")
def gone(_: Path) -> None:
    lock = Lock(shared=True)
    handle = _core.handle_of(lock)
    del lock
    others = [Lock(shared=True) for _ in range(100)]
    assert handle[16:24] in {_core.handle_of(other)[16:24] for other in others}  # one lies there now
    with pytest.raises(HandleGoneError, match="gone"):
        _core.open_handle(handle)


# --- what pickle means for trust


class Planted:
    """Says, where it is unpickled, which process that was."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getpid, ()


def plant() -> Any:
    return Planted()


@line("an object in a queue, an argument, a result")
def pickled(_: Path) -> None:
    queue: Queue[Any] = Queue()
    queue.put(Planted())
    assert queue.get(timeout=20) == os.getpid()
    with WorkerPool(workers=1) as pool:
        worker = pool.apply(os.getpid)
        assert worker != os.getpid()
        assert pool.apply(just, (Planted(),)) == worker
        assert pool.apply(plant) == os.getpid()
    pool.join()


PLAIN = """
import operator, os
from freethreading import Queue, WorkerPool, _core

def memory():
    descriptor = _core.session_open()[1]
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

def in_a_pickle(text):
    return b"\\x8c" + bytes([len(text)]) + text.encode() in memory()

class Kept:
    def __init__(self, text):
        self.text = text

item, word, call, answer = ("an " + name for name in ("object", "entry", "argument", "result"))
queue, done = Queue(), []
queue.put(Kept(item))
queue.put([1, 2.5, {"key": (word, None)}])
with WorkerPool(1) as pool:
    assert pool.apply(operator.concat, (call, " and more")) == call + " and more"
    assert pool.apply(operator.add, (answer[:4], answer[4:])) == answer
    assert all(text.encode() in memory() for text in (item, word, call, answer))
    print([in_a_pickle(text) for text in (item, word, call, answer)])
"""


@line("a number, a string, a list or dict of such, in a queue or as a call's argument or result")
def plain(_: Path) -> None:
    assert answers(PLAIN) == "[True, False, False, False]"


@line("`bytes`")
def stay_bytes(_: Path) -> None:
    planted = pickle.dumps(Planted())
    queue: Queue[Any] = Queue()
    queue.put(planted)
    assert queue.get(timeout=20) == planted
    with WorkerPool(workers=1) as pool:
        assert pool.apply(just, (planted,)) == planted
        assert pool.apply(just, ([planted],)) == [planted]
    pool.join()


# --- what can be seen


@line("command lines and names in `ps`")
def command_lines(_: Path) -> None:
    with LiveProgram(WITH_WORKER, "--password=hunter2") as program:
        assert processes.name(program.supervisor) == "ft-supervisor"
        assert str(program.pid) in processes.command(program.supervisor).split()
        for pid in program.ours() - {program.pid}:
            told = processes.command(pid) + processes.name(pid)
            assert told
            assert not any(word in told for word in ("hunter2", "sent-item", "before", "theirs"))


@line("`/proc/<pid>/environ` of our processes")
def environments(_: Path) -> None:
    with LiveProgram(WITH_WORKER, SET_OUTSIDE="outside") as program:
        for pid in (program.supervisor, program.told["worker"]):
            seen = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert b"SET_BEFORE=before" in seen
            assert b"SET_OUTSIDE=outside" in seen


WIPED = """
import os
from freethreading import Queue, _core
text, queue = os.urandom(50).hex(), Queue()
queue.put([text])
assert queue.get() == [text]
descriptor = _core.session_open()[1]
print(text.encode() in os.pread(descriptor, os.fstat(descriptor).st_size, 0))
"""


@line("memory that is free again")
def not_wiped(_: Path) -> None:
    assert answers(WIPED) == "True"


@line("core dumps")
def core_dumps(_: Path) -> None:
    with LiveProgram(WITH_WORKER) as program:
        assert all("dd" in flags for flags in program.flags_of_memory())


@line("swap")
def swap(_: Path) -> None:
    with LiveProgram(WITH_WORKER) as program:
        assert not any("lo" in flags for flags in program.flags_of_memory())


# --- users and privileges

BECOME = f"""
import os
from freethreading import Queue, Worker, WorkerPool
def become():
    os.setgroups([])
    os.setgid({SOMEBODY})
    os.setuid({SOMEBODY})
def tell(queue):
    queue.put(os.getuid())
"""


@line("privileges that the program gives up after its first worker")
def given_up_by_the_program(_: Path) -> None:
    needs_root()
    late = """
queue = Queue()
for _ in range(2):
    worker = Worker(target=tell, args=(queue,))
    worker.start()
    worker.join()
    if os.getuid() == 0:
        become()
print(queue.get(timeout=20), queue.get(timeout=20), os.getuid())
"""
    assert answers(BECOME + late) == f"0 0 {SOMEBODY}"


GIVES_UP = f"""
import json, os, sys
from freethreading import Queue, WorkerPool, _core, _supervisor
def who(_):
    return [os.getpid(), os.getuid()]
{BECOME}
pool, queue = WorkerPool(1, initializer=become), Queue()
calls = [*pool.map(who, range(3)), pool.apply(who, (0,))]
more = {{"calls": calls}}
"""


@line("privileges that a worker gives up")
def given_up_by_a_worker(_: Path) -> None:
    needs_root()
    tell = WITH_WORKER.partition("session, descriptor")
    with LiveProgram(GIVES_UP + tell[1] + tell[2]) as program:
        calls = program.told["calls"]
        worker = calls[0][0]
        assert calls == [[worker, SOMEBODY]] * 4
        assert worker in processes.alive()
        program.kill()
        until(lambda: worker not in processes.alive(), "the worker ends with the program")


FORKS = """
child = os.fork()
if child == 0:
    sys.stdin.read()
    os._exit(0)
more = {"child": child}
"""


@line("the end of the program, by `SIGKILL` too")
def end(_: Path) -> None:
    for kill in (False, True):
        with LiveProgram(WITH_WORKER) as program:
            inode = os.stat(program.memory).st_ino
            assert {program.pid, program.supervisor, program.told["worker"]} <= processes.holders(inode)
            others = program.ours() - {program.pid}
            if kill:
                program.kill()
        until(lambda others=others: not others & processes.alive(), "its processes end")  # type: ignore[misc]
        until(lambda inode=inode: not processes.holders(inode), "nobody has its memory")  # type: ignore[misc]
    before, begin, tell = OF_A_USER.partition("session, descriptor")
    with LiveProgram(before + FORKS + begin + tell, str(os.geteuid())) as program:
        inode = os.stat(program.memory).st_ino
        program.kill()
        assert processes.holders(inode) == {program.told["child"]}
    until(lambda: not processes.holders(inode), "the fork ends too")


def test_every_line_has_a_check_and_every_check_a_line() -> None:
    rows = re.findall(r"^\| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [row for row in rows if row != "what"] == list(CHECKS)


@pytest.mark.parametrize("what", CHECKS)
def test_claim(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    CHECKS[what](tmp_path)
