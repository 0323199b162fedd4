"""Deaths around a worker process: of the worker, its zygote, its supervisor, the program; where x how -> what is expected.

Each case is a program of its own: it may lose its supervisor, and what it leaves behind is looked for from outside.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import freethreading
from crash.test_import_deaths import CRASH_POINTS as CRASH_POINTS_OF_IMPORTS
from freethreading import _core
from support import processes
from support.until import until
from support.worker_programs import PRELUDE, answers, environment, run

CRASH_POINTS = [
    "supervisor.requested",
    "supervisor.ordered",
    "supervisor.answered",
    "supervisor.handed_over",
    "supervisor.exit_written",
    "worker_record.claimed",
    "worker_record.state_stored",
]
# Those that a supervisor comes by in what it does for pools while the program does nothing.
CRASH_POINTS_FOR_POOLS = [
    "supervisor.warden.stopped",
    "supervisor.warden.noted",
    "supervisor.standby.used",
]


@pytest.mark.parametrize(("how", "expected"), [("SIGKILL", -9), ("SIGTERM", -15), ("SIGSEGV", -11)])
def test_a_killed_worker_is_joined_and_tells_the_signal(how: str, expected: int) -> None:
    printed = answers(f"""
        event = freethreading.Event()
        worker = freethreading.Worker(target=wait_for, args=(event,))
        worker.start()
        os.kill(worker.pid, signal.{how})
        worker.join(20)
        print(worker.exitcode, worker.is_alive(), works())
    """)
    assert printed == f"{expected} False True"


def test_a_stopped_worker_is_alive() -> None:
    printed = answers("""
        event, queue = freethreading.Event(), freethreading.Queue()
        def report(event, queue):
            event.wait(60)
            queue.put("went on")
        worker = freethreading.Worker(target=report, args=(event, queue))
        worker.start()
        os.kill(worker.pid, signal.SIGSTOP)
        event.set()
        worker.join(1.2)
        print(worker.is_alive())
        os.kill(worker.pid, signal.SIGCONT)
        print(queue.get(timeout=20))
        worker.join()
    """)
    assert printed.split("\n") == ["True", "went on"]


def test_workers_die_with_a_killed_supervisor_and_the_next_worker_gets_a_new_one() -> None:
    printed = answers("""
        event = freethreading.Event()
        worker = freethreading.Worker(target=wait_for, args=(event,))
        worker.start()
        pid, supervisor = worker.pid, _supervisor.pid()
        os.kill(supervisor, signal.SIGKILL)
        until(lambda: not alive(pid))
        begin = time.monotonic()
        worker.join(20)
        print(worker.exitcode, worker.is_alive(), time.monotonic() - begin < 2, works(), _supervisor.pid() != supervisor)
    """)
    assert printed == "-9 False True True True"


def test_a_supervisor_that_dies_costs_one_start_at_most() -> None:
    printed = answers("""
        def lost():
            worker = freethreading.Worker(target=os.getpid)
            worker.start()
            worker.join(20)
            return worker.exitcode != 0
        assert not lost()
        counts = []
        for _ in range(10):
            os.kill(_supervisor.pid(), signal.SIGKILL)
            counts.append(lost() + lost())
        print(max(counts) <= 1)
    """)
    assert printed == "True"


def test_workers_outlive_a_killed_zygote_and_the_next_worker_gets_a_new_one() -> None:
    printed = answers("""
        event = freethreading.Event()
        worker = freethreading.Worker(target=wait_for, args=(event,))
        worker.start()
        worker.pid  # its zygote is there
        zygotes = processes.zygotes()
        assert zygotes
        kill(zygotes)
        until(lambda: not any(map(alive, zygotes)))
        print(works(), worker.is_alive())
        event.set()
        worker.join()
        print(worker.exitcode)
    """)
    assert printed.split("\n") == ["True True", "0"]


def test_killed_spares_are_not_missed() -> None:
    printed = answers("""
        assert works()
        until(processes.spares)
        for round in range(3):
            spares = processes.spares()
            kill(spares)
            until(lambda: not any(map(alive, spares)))
            assert works()
        print("works")
    """)
    assert printed == "works"


def test_a_spare_that_dies_with_its_order_unread_is_a_lost_worker() -> None:
    printed = answers("""
        assert works()
        until(lambda: len(processes.spares()) == 1)
        spare, = processes.spares()
        os.kill(spare, signal.SIGSTOP)
        worker = freethreading.Worker(target=print)
        worker.start()
        worker.join(0.5)
        print(worker.is_alive())
        os.kill(spare, signal.SIGKILL)
        worker.join(20)
        print(worker.exitcode, worker.pid == spare, works())
    """)
    assert printed.split("\n") == ["True", "-9 True True"]


def test_a_stopped_spare_is_the_worker_when_it_goes_on() -> None:
    printed = answers("""
        assert works()
        until(lambda: len(processes.spares()) == 1)
        spare, = processes.spares()
        os.kill(spare, signal.SIGSTOP)
        queue = freethreading.Queue()
        worker = freethreading.Worker(target=put, args=(queue, 7))
        worker.start()
        os.kill(spare, signal.SIGCONT)
        print(queue.get(timeout=20), worker.pid == spare)
        worker.join()
        print(worker.exitcode)
    """)
    assert printed.split("\n") == ["7 True", "0"]


def test_spares_do_not_outlive_the_supervisor_or_the_zygote_that_did_not_tell_of_them() -> None:
    printed = answers("""
        assert works()
        until(processes.spares)
        spares = processes.spares()
        os.kill(_supervisor.pid(), signal.SIGKILL)
        until(lambda: not any(map(alive, spares)))
        print(works())
    """)
    assert printed == "True"


def test_idle_spares_go_away_and_are_few() -> None:
    printed = answers("""
        most = []
        for count in range(1, 80):
            assert works()
            most.append(len(processes.spares()) <= min(count, 64))
        until(processes.spares)
        until(lambda: not processes.spares())
        print(all(most), works())
    """)
    assert printed == "True True"


def test_an_interrupt_that_spares_get_is_no_later_worker_s() -> None:
    printed = answers("""
        assert works()
        until(processes.spares)
        kill(processes.spares(), signal.SIGINT)
        print([works() for _ in range(3)])
    """)
    assert printed == "[True, True, True]"


def test_a_zygote_that_cannot_start_fails_the_worker_and_says_why() -> None:
    done = run("""
        import multiprocessing
        multiprocessing.set_executable("/bin/false")
        worker = freethreading.Worker(target=print)
        worker.start()
        worker.join(30)
        print(worker.exitcode, worker.is_alive())
    """)
    assert done.stdout.strip() == "1 False", done.stderr


def test_a_missing_supervisor_program_is_an_error_of_start() -> None:
    printed = answers("""
        _supervisor.PROGRAM = "/nowhere/ft-supervisor"
        worker = freethreading.Worker(target=print)
        try:
            worker.start()
        except OSError as error:
            print(error)
    """)
    assert "cannot run /nowhere/ft-supervisor: No such file or directory" in printed


START_AND_WAIT = """
event = freethreading.Event()
workers = [freethreading.Worker(target=wait_for, args=(event,), daemon={daemon}) for _ in range(3)]
for worker in workers:
    worker.start()
print(_supervisor.pid(), *[worker.pid for worker in workers], *processes.zygotes(), flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_killed_program(how: int) -> None:
    code = PRELUDE + START_AND_WAIT.format(daemon=False) + "event.wait(60)\n"
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout is not None
    pids = {int(word) for word in program.stdout.readline().split()}
    assert len(pids) >= 5
    program.send_signal(how)
    # An interrupted program ends as a multiprocessing one does: it waits for its workers; their event is never set.
    if how == signal.SIGINT:
        program.kill()
    program.wait()
    program.stdout.close()
    until(lambda: not pids & processes.alive(), "supervisor, zygote and workers have ended", 1.5)


def test_the_end_of_the_program_waits_for_workers_and_terminates_daemons() -> None:
    printed = answers("""
        def last_words():
            os.write(1, b"from the worker\\n")
        freethreading.Worker(target=last_words).start()
        event = freethreading.Event()
        daemon = freethreading.Worker(target=wait_for, args=(event,), daemon=True)
        daemon.start()
        os.write(1, f"{daemon.pid} {_supervisor.pid()}\\n".encode())  # in one piece
    """)
    first, second = sorted(printed.split("\n"), reverse=True)
    assert first == "from the worker"
    until(lambda: not set(map(int, second.split())) & processes.alive(), "nothing is left", 1.5)


def test_a_child_that_the_user_forked_in_a_worker_is_not_touched() -> None:
    printed = answers("""
        def fork_and_leave(queue):
            child = os.fork()
            if child == 0:
                os.setsid()
                threading.Event().wait(60)
                os._exit(0)
            queue.put(child)
        queue = freethreading.Queue()
        worker = freethreading.Worker(target=fork_and_leave, args=(queue,))
        worker.start()
        child = queue.get(timeout=20)
        worker.join()
        _supervisor.stop()
        print(alive(child))
        os.kill(child, signal.SIGKILL)
    """)
    assert printed == "True"


def test_a_program_that_waits_for_all_its_children_does_not_wait_for_the_supervisor() -> None:
    printed = answers("""
        works()
        try:
            print(os.wait())
        except ChildProcessError:
            print("no children")
    """)
    assert printed == "no children"


def test_a_forked_child_of_the_program_leaves_its_workers_alone() -> None:
    printed = answers("""
        event = freethreading.Event()
        worker = freethreading.Worker(target=wait_for, args=(event,), daemon=True)
        worker.start()
        child = os.fork()
        if child == 0:
            print(freethreading.active_children(), works(), flush=True)
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), worker.is_alive())
        event.set()
        worker.join()
        print(worker.exitcode)
    """)
    assert printed.split("\n") == ["[] True", "5 True", "0"]


@pytest.mark.skipif(not hasattr(_core, "set_crash_point"), reason="this build has no crash points")
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_death_at_a_crash_point(point: str) -> None:
    """Every worker ends, one way or the other, and new ones can be made."""
    printed = answers(
        """
        codes, supervisors = [], []
        die_at(sys.argv[1])
        for _ in range(3):
            queue = freethreading.Queue()
            worker = freethreading.Worker(target=put, args=(queue, 7))
            worker.start()
            supervisors.append(_supervisor.pid())
            os.environ.pop("FT_CRASH_AT", None)
            worker.join(20)
            codes.append(worker.exitcode)
        print(*codes, supervisors[0] != supervisors[2])
    """,
        point,
    )
    first, *others, has_died = printed.split()
    assert first in {"0", "1", "-9"}
    if point.startswith("supervisor."):
        assert has_died == "True"
        # It dies a moment after it has told of the first one's end: it may have been sent the second one's start by then.
        assert others == ["0", "0"] or (point == "supervisor.exit_written" and others == ["-9", "0"])
    else:  # a zygote keeps the environment that it was started with, and all of its workers die at the point of a worker's
        assert first != "0"


@pytest.mark.skipif(not hasattr(_core, "set_crash_point"), reason="this build has no crash points")
@pytest.mark.parametrize("point", CRASH_POINTS_FOR_POOLS)
def test_a_death_at_a_crash_point_in_the_care_of_a_pool(point: str) -> None:
    """The call that was to be ended fails, and the pool gets a supervisor and workers again."""
    printed = answers(
        """
        import ctypes, select

        def keep(size):
            kept = b"x" * size
            threading.Event().wait()

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        def wait_in_c_for_the_end_of(pid):
            # With the GIL: the program does nothing meanwhile. struct pollfd: a descriptor, POLLIN, what is found.
            descriptor = os.pidfd_open(pid)
            fields = (ctypes.c_int * 2)(descriptor, select.POLLIN)
            ctypes.PyDLL(None).poll(fields, 1, 30_000)
            os.close(descriptor)

        die_at(sys.argv[1])
        with freethreading.WorkerPoolExecutor(1, max_memory_per_child=64 << 20) as executor:
            executor.submit(abs, 1).result(20)
            supervisor = _supervisor.pid()
            until(lambda: executor._engine._crew._standby is not None)
            del os.environ["FT_CRASH_AT"]
            call = executor.submit(keep, 200 << 20) if "warden" in sys.argv[1] else executor.submit(die)
            wait_in_c_for_the_end_of(supervisor)
            error = call.exception(20)
            print(type(error).__name__, executor.submit(abs, -3).result(20), _supervisor.pid() != supervisor)
    """,
        point,
    )
    assert printed == "WorkerLostError 3 True"


@pytest.mark.skipif(not hasattr(_core, "set_crash_point"), reason="this build has no crash points")
def test_every_crash_point_of_supervisor_and_worker_is_in_the_table() -> None:
    source = Path(__file__).parents[2] / "core" / "src"
    found = {
        line.split('"')[1]
        for folder in ("supervisor", "pool")
        for path in (source / folder).glob("*.cpp")
        for line in path.read_text().splitlines()
        if "FT_CRASH_POINT(" in line
    }
    known = {*CRASH_POINTS, *CRASH_POINTS_FOR_POOLS, *CRASH_POINTS_OF_IMPORTS}
    assert {name for name in found if name.startswith(("supervisor.", "worker_record."))} == known


def test_a_daemonic_worker_may_have_workers(backend: str) -> None:
    queue = freethreading.Queue()
    worker = freethreading.Worker(target=_make_a_worker, args=(queue,), daemon=True)
    worker.start()
    assert queue.get(timeout=30) == "from below"
    worker.join()
    assert worker.exitcode == 0
    worker.close()


def _make_a_worker(queue: freethreading.Queue[str]) -> None:
    below = freethreading.Worker(target=queue.put, args=("from below",))
    below.start()
    below.join()


@pytest.mark.parametrize("limit", [16, 64])
def test_few_descriptors_are_enough(limit: int) -> None:
    printed = answers(f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
        print(works())
    """)
    assert printed == "True"


def test_join_of_a_queue_names_who_died_owing() -> None:
    printed = answers("""
        def take_and_die(queue):
            queue.get()
            os.kill(os.getpid(), signal.SIGKILL)
        queue = freethreading.Queue()
        queue.put("owed")
        worker = freethreading.Worker(target=take_and_die, args=(queue,))
        worker.start()
        worker.join()
        # Also once the supervisor has swept the dead process's slot.
        until(lambda: freethreading._core.session_usage()["processes"] - len(processes.spares()) == 2)
        try:
            queue.join()
        except freethreading.WorkerLostError as error:
            print(error.pid == worker.pid, str(worker.pid) in str(error))
    """)
    assert printed == "True True"


def test_workers_that_die_with_their_supervisor_do_not_break_their_pool() -> None:
    printed = answers("""
        with freethreading.WorkerPool(4) as pool:
            until(_supervisor.pid)
            os.kill(_supervisor.pid(), signal.SIGKILL)
            for _ in range(20):
                try:
                    print(pool.map(abs, range(-3, 0)))
                    break
                except freethreading.WorkerLostError:
                    pass
    """)
    assert printed == "[3, 2, 1]"
