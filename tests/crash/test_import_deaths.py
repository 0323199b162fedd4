"""Deaths while the zygote imports what workers need: of its fork that imports, of itself, of the supervisor."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from freethreading import _core
from support.worker_programs import answers, run

CRASH_POINTS = ["supervisor.import.ordered", "supervisor.import.succeeded"]
# Imported by whoever ignores interrupts, the zygote, it says so and waits until somebody lets it go on.
SLOW = """
import os
import signal
import time

with open("imports", "a") as file:
    file.write(f"{os.getpid()}\\n")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and not os.path.exists("go on"):
    with open("importing", "w") as file:
        file.write(f"{os.getpid()} {os.getppid()}")
    os.rename("importing", "imported")
    while not os.path.exists("go on"):
        time.sleep(0.005)


def double(number):
    return number * 2
"""
# A pool whose workers wait for the import: `successor` imports for `zygote`.
BEGIN = """
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import slow
pool = freethreading.WorkerPool(2)
result = pool.map_async(slow.double, range(4))
until(lambda: os.path.exists("imported"))
successor, zygote = map(int, open("imported").read().split())
supervisor = _supervisor.pid()

def end():
    print(result.get(20), pool.map(slow.double, range(2)), len(open("imports").read().split()))
    pool.terminate()
    pool.join()
"""
# What end() prints: results, and the number of imports; by the program, by `successor`, and by each worker that has had work.
WITH_ITS_OWN = [f"[0, 2, 4, 6] [0, 2] {2 + workers}" for workers in (1, 2)]


def begin(folder: Path, body: str) -> str:
    """What a program prints that begins so and goes on with the body."""
    (folder / "slow.py").write_text(SLOW)
    return answers(BEGIN + body, str(folder))


def test_the_one_that_imports_is_killed(tmp_path: Path) -> None:
    printed = begin(
        tmp_path,
        """
os.kill(successor, signal.SIGKILL)
end()
""",
    )
    assert printed in WITH_ITS_OWN


def test_the_zygote_is_killed_while_its_fork_imports(tmp_path: Path) -> None:
    printed = begin(
        tmp_path,
        """
os.kill(zygote, signal.SIGKILL)
assert result.get(20) == [0, 2, 4, 6]  # the workers have imported it themselves
assert alive(successor)
open("go on", "w").close()
until(lambda: not alive(successor))  # nobody waits for it
end()
""",
    )
    assert printed in WITH_ITS_OWN


def test_one_whose_import_hangs_does_not_outlive_its_time(tmp_path: Path) -> None:
    # The zygote, which would end it, has gone.
    printed = begin(
        tmp_path,
        """
os.kill(zygote, signal.SIGKILL)
until(lambda: not alive(successor))
end()
""",
    )
    assert printed in WITH_ITS_OWN


def test_the_supervisor_is_killed_while_the_zygote_imports(tmp_path: Path) -> None:
    printed = begin(
        tmp_path,
        """
os.kill(supervisor, signal.SIGKILL)
until(lambda: not alive(successor) and not alive(zygote))
open("go on", "w").close()
end()
""",
    )
    assert printed == "[0, 2, 4, 6] [0, 2] 3"  # the program, it, the zygote of the next supervisor


def test_the_program_is_killed_while_the_zygote_imports(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    watch = """
import warnings
program = os.getpid()
warnings.simplefilter("ignore")  # of a fork with threads
if os.fork():
    signal.pause()
os.kill(program, signal.SIGKILL)
until(lambda: not {supervisor, zygote, successor} & processes.alive())
print("gone", flush=True)
os._exit(0)
"""
    done = run(BEGIN + watch, str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "gone\n", "")


def test_the_one_that_took_over_is_killed(tmp_path: Path) -> None:
    printed = begin(
        tmp_path,
        """
open("go on", "w").close()
assert result.get(20) == [0, 2, 4, 6]
until(lambda: not alive(zygote))
until(lambda: processes.zygotes() == {successor})  # a spare has its name for a moment
os.kill(successor, signal.SIGKILL)
until(lambda: not alive(successor))
with freethreading.WorkerPool(2) as other:
    assert other.map(slow.double, range(2), chunksize=1) == [0, 2]
end()
""",
    )
    # The other pool has spares that were forked before, or workers that have imported it.
    assert printed in ["[0, 2, 4, 6] [0, 2] 2", *WITH_ITS_OWN]


@pytest.mark.skipif(not hasattr(_core, "set_crash_point"), reason="this build has no crash points")
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_death_at_a_crash_point(tmp_path: Path, point: str) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "go on").touch()
    printed = answers(
        f"""
os.chdir({str(tmp_path)!r})
sys.path.insert(0, os.getcwd())
import slow
die_at({point!r})
with freethreading.WorkerPoolExecutor(2) as executor:
    abs_of = executor.submit(abs, -1)
    supervisor = _supervisor.pid
    until(supervisor)
    first = supervisor()
    call = executor.submit(slow.double, 2)
    until(lambda: not alive(first))
    del os.environ["FT_CRASH_AT"]
    print(call.exception(20) is None or type(call.exception()).__name__, executor.submit(slow.double, 3).result(20))
    print(supervisor() != first)
"""
    )
    first, then, is_new = printed.split()
    assert first in {"True", "WorkerLostError"}
    assert (then, is_new) == ("6", "True")
