"""What workers have from the zygote, and do not write to: functions, types and modules that live for ever there."""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections.abc import Callable

import pytest

import freethreading
from freethreading import _core

# From there on a count says that nobody counts.
IMMORTAL = 1 << 29
counts_in_vain = pytest.mark.skipif(
    not (3, 12) <= sys.version_info < (3, 14) or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="this interpreter knows no such objects, or counts in another way",
)
told: list[str] | None = []


class Telling:
    def __del__(self) -> None:
        if told is not None:  # else the interpreter ends
            told.append("deleted")


thing = Telling()
things = {"one": [Telling()]}


def counted() -> list[bool]:
    """Whether references are counted: to definitions, then to values."""
    definitions = (
        counted,
        Telling,
        Telling.__del__,
        threading.Thread.run,
        threading,
        counted.__code__,
        threading.__dict__,
    )
    values = (thing, things, things["one"], told)
    return [sys.getrefcount(each) < IMMORTAL for each in (*definitions, *values)]


def make_closing() -> Callable[[], object]:
    held = Telling()
    return lambda: held


closing = make_closing()


def delete_closure() -> list[str] | None:
    del globals()["closing"]
    return told


def delete_values() -> list[str] | None:
    del globals()["thing"]
    things.clear()
    return told


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> freethreading.WorkerPoolExecutor:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")
    return freethreading.WorkerPoolExecutor(1)


@counts_in_vain
def test_references_to_definitions_are_not_counted_in_workers(
    executor: freethreading.WorkerPoolExecutor,
) -> None:
    with executor:
        assert executor.submit(counted).result(60) == [False] * 7 + [True] * 4
    assert all(counted())  # here they are


def test_values_end_as_ever(executor: freethreading.WorkerPoolExecutor) -> None:
    with executor:
        assert executor.submit(delete_values).result(60) == ["deleted"] * 2
    assert told == []


def test_a_function_that_has_closed_over_a_value_ends_as_ever(
    executor: freethreading.WorkerPoolExecutor,
) -> None:
    with executor:
        assert executor.submit(delete_closure).result(60) == ["deleted"]


def test_keep_definitions_takes_a_list() -> None:
    with pytest.raises(TypeError, match=r"takes a list, not \(\)"):
        _core.keep_definitions(())  # type: ignore[arg-type]
