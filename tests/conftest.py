"""What every test gets: a watchdog that dumps all stacks, a printed seed, and a check that nothing stays behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # workers import the tests' modules by name, from here

import freethreading
from support import processes
from support.watchdog import WATCHDOG_SECONDS, keep_stderr, watchdog_output

SETTLE_SECONDS = 10.0
BACKENDS = ("threading", "multiprocessing")
SEED = int(os.environ.get("FT_TEST_SEED", str(random.SystemRandom().randrange(1 << 32))))


def pytest_configure() -> None:
    keep_stderr()
    # What the tests' modules import, in every worker that is given one of their functions.
    freethreading.set_preload(["hypothesis", "pytest"])


def pytest_report_header() -> str:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return f"freethreading: GIL {'on' if gil else 'off'}, seed {SEED} (FT_TEST_SEED gives it again)"


@pytest.fixture
def seed() -> int:
    return SEED


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs once on each back end, whatever the interpreter's own."""
    name: str = request.param
    monkeypatch.setenv("FREETHREADING_BACKEND", name)
    return name


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends the run with every thread's stack when one test does not end."""
    marker = request.node.get_closest_marker("watchdog")
    seconds = marker.args[0] if marker else WATCHDOG_SECONDS
    faulthandler.dump_traceback_later(seconds, exit=True, file=watchdog_output())
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session", autouse=True)
def infrastructure() -> None:
    """What a program opens once and keeps (session, supervisor, zygote) is there before anything is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREETHREADING_BACKEND", "multiprocessing")
        worker = freethreading.Worker()
        worker.start()
        worker.join()
        worker.close()
        assert worker not in freethreading.active_children()
    # What was there before the first test is not looked at again by each collection.
    gc.collect()
    gc.freeze()


class Belongings:
    """What this process holds of the system: threads, child processes, descriptors, objects in the region."""

    def __init__(self) -> None:
        gc.collect()
        self.threads = {thread for thread in threading.enumerate() if thread.is_alive()}
        table = processes.Table()
        self.processes = table.ours() - table.infrastructure()
        self.descriptors = processes.descriptors() - processes.infrastructure_descriptors()
        self.objects = processes.region_objects()

    def beyond(self, before: Belongings) -> list[str]:
        """What is there now and was not before, in words."""
        extra = [f"thread {thread.name}" for thread in self.threads - before.threads]
        extra += [f"process {pid}: {processes.command(pid)}" for pid in self.processes - before.processes]
        if len(self.descriptors) > len(before.descriptors):
            extra += [
                f"descriptor {number}: {target}" for number, target in self.descriptors - before.descriptors
            ]
        if self.objects > before.objects:
            extra.append(f"{self.objects - before.objects} objects in the region")
        return extra


# What there was behind the last test is what there is before the next one: looking takes time.
_seen_last: list[Belongings] = []


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest, watchdog: None, infrastructure: None) -> Iterator[None]:
    """Fails a test that leaves a thread, a process, a descriptor or a shared object behind."""
    if request.node.get_closest_marker("leaks_allowed"):
        yield
        return
    before = _seen_last.pop() if _seen_last else Belongings()
    yield
    deadline = time.monotonic() + SETTLE_SECONDS
    while extra := (now := Belongings()).beyond(before):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(extra))
        threading.Event().wait(0.01)  # let ended workers be reaped
    _seen_last.append(now)
