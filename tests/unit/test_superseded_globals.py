"""Globals of a main program by value that are bound anew: what nobody needs any more goes, what somebody needs stays."""

from __future__ import annotations

from support.program import run_program

REBOUND = """
import freethreading
from freethreading import _core

def usage():
    return _core.session_usage()["block_bytes"]

def total(number):
    return number, len(table), table[0]

class Kept:
    pass

def kind(number):
    return Kept.__name__, other.value[0]

KEPT = Kept()
"""


def expect_done(program: str) -> None:
    done = run_program(program, "multiprocessing")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_global_that_is_bound_anew_replaces_what_the_workers_to_come_need() -> None:
    program = f"""{REBOUND}
pool = freethreading.WorkerPool(1)
for number in range(20):
    table = bytes([number]) * 1_000_000
    assert pool.apply(total, (number,)) == (number, 1_000_000, number)
    if number == 2:
        before = usage()
assert usage() < before + 1_500_000, (before, usage())
other = freethreading.broadcast(bytes(1_000_000))
for number in range(20):
    other = freethreading.broadcast(bytes([number]) * 1_000_000)
    assert pool.apply(kind, (number,)) == ("Kept", number)
late = freethreading.WorkerPool(1)  # skips what is superseded
assert late.apply(total, (7,)) == (7, 1_000_000, 19)
assert late.apply(kind, (7,)) == ("Kept", 19)
assert usage() < before + 4_500_000, (before, usage())
pool.close(); late.close(); pool.join(); late.join()
print("done")
"""
    expect_done(program)


def test_a_task_that_waits_keeps_what_it_was_given_with() -> None:
    program = f"""{REBOUND}
def wait(event):
    event.wait(60)

pool, event = freethreading.WorkerPool(1), freethreading.Event()
first = pool.apply_async(wait, (event,))
waiting = []
for number in range(5):
    table = bytes([number]) * 1_000_000
    waiting.append(pool.apply_async(total, (number,)))
event.set()
first.get(60)
assert [result.get(60) for result in waiting] == [(n, 1_000_000, n) for n in range(5)]
pool.close(); pool.join()
print("done")
"""
    expect_done(program)


def test_a_worker_sends_to_another_what_the_program_has_superseded() -> None:
    program = f"""{REBOUND}
def give(queue, ready, go):
    total(0)
    ready.set()
    go.wait(60)
    queue.put(total)

def take(queue):
    return queue.get(timeout=60)(5)

queue, ready, go = freethreading.Queue(), freethreading.Event(), freethreading.Event()
table = bytes([1]) * 1_000_000
giver = freethreading.Worker(target=give, args=(queue, ready, go))
giver.start()
assert ready.wait(60)
table = bytes([2]) * 1_000_000
pool = freethreading.WorkerPool(1)
go.set()
giver.join()
found = pool.apply(take, (queue,))
assert found in ((5, 1_000_000, 1), (5, 1_000_000, 2)), found
pool.close(); pool.join()
print("done")
"""
    expect_done(program)


def test_a_global_that_can_no_longer_be_sent() -> None:
    program = f"""{REBOUND}
import threading

def see():
    return thing

thing = 1
pool = freethreading.WorkerPool(1)
assert pool.apply(see) == 1
thing = threading.Lock()  # an entry without a value
try:
    pool.apply(lambda: str(thing))
    raise AssertionError("it was sent")
except NameError as error:
    assert "thing" in str(error), error
thing = bytes(10_000)
assert pool.apply(see) == thing
pool.close(); pool.join()
print("done")
"""
    expect_done(program)
