"""How exceptions come back from another process: what of them stays, and what is said of those that cannot come."""

from __future__ import annotations

import builtins
import concurrent.futures
import pickle
import sys
import threading
from typing import Any

import pytest

import freethreading
from freethreading import _serialize
from freethreading._exceptions import RemoteError, RemoteTraceback

pytestmark = pytest.mark.usefixtures("kind_of_main")


class OwnError(Exception):
    pass


class TwoArguments(Exception):
    """Its __init__ cannot be called with its args: pickle makes it and then cannot rebuild it."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code


class BreaksOnArrival(Exception):
    def __reduce__(self) -> Any:
        return _fail_to_rebuild, ()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups")
def test_a_group_arrives_with_members_that_pickle_cannot_rebuild() -> None:
    group_type: Any = getattr(builtins, "ExceptionGroup")  # noqa: B009 - not in Python 3.10
    inner = group_type("inner", [TwoArguments(2, "deep")])
    group = group_type("several", [TwoArguments(1, "broken"), ValueError(3), inner])
    found: Any = _serialize.load_exception(_serialize.dump_exception(group))
    assert type(found) is group_type
    assert found.message == "several"
    broken, value, inner = found.exceptions
    assert (type(broken), broken.code) == (TwoArguments, 1)
    assert type(value) is ValueError
    assert (type(inner.exceptions[0]), inner.exceptions[0].code) == (TwoArguments, 2)


def _fail_to_rebuild() -> None:
    raise OSError("not here")


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def returned(error: BaseException) -> BaseException:
    return _serialize.load_exception(_serialize.dump_exception(raised(error)))


def test_exception_keeps_type_arguments_attributes_and_notes() -> None:
    error = OwnError("text", 2)
    error.extra = [1]  # type: ignore[attr-defined]
    error.__notes__ = ["a note"]
    back: Any = returned(error)
    assert (type(back), back.args, back.extra, back.__notes__) == (OwnError, ("text", 2), [1], ["a note"])
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "in raised" in str(back.__cause__)


def test_exception_keeps_its_chain() -> None:
    def chained() -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise OwnError("second") from first

    with pytest.raises(OwnError) as caught:
        chained()
    back = _serialize.load_exception(_serialize.dump_exception(caught.value))
    assert isinstance(back.__context__, KeyError)
    assert back.__cause__ is not None
    assert isinstance(back.__cause__.__cause__, KeyError)
    assert "direct cause" in str(back.__cause__)


def test_exception_whose_init_does_not_fit_its_args_keeps_its_type() -> None:
    back: Any = returned(TwoArguments(5, "text"))
    assert (type(back), str(back), back.code) == (TwoArguments, "text (5)", 5)


def test_attribute_that_does_not_pickle_is_left_as_text() -> None:
    error = OwnError("text", threading.Lock())
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    back: Any = returned(error)
    assert type(back) is OwnError
    assert back.args[0] == "text"
    assert "lock" in back.lock


def test_exception_that_cannot_be_rebuilt_says_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _serialize.dump_exception(raised(OwnError("text")))
    monkeypatch.delattr(sys.modules[__name__], "OwnError")
    back = _serialize.load_exception(data)
    assert isinstance(back, RemoteError)
    assert "OwnError: text" in str(back)
    assert isinstance(back.__cause__, RemoteTraceback)


def test_no_exception_makes_loading_fail() -> None:
    class Local(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    for error in (BreaksOnArrival("x"), Local(), SystemExit(3), KeyboardInterrupt(), MemoryError()):
        back = returned(error)
        assert isinstance(back, BaseException)
        assert back.__cause__ is not None
    assert isinstance(_serialize.load_exception(b"rubbish"), RemoteError)


def test_exception_group_and_futures_errors() -> None:
    if sys.version_info >= (3, 11):
        group: Any = builtins.ExceptionGroup("two", [ValueError(1), OwnError(2)])
        back: Any = returned(group)
        assert [type(e) for e in back.exceptions] == [ValueError, OwnError]
    assert type(returned(concurrent.futures.CancelledError())) is concurrent.futures.CancelledError


def test_worker_lost_error_explains_itself() -> None:
    error = freethreading.WorkerLostError(pid=7, exitcode=-9, task="f(3)")
    back: Any = returned(error)
    assert (back.pid, back.exitcode, back.signal, back.reason, back.task) == (7, -9, 9, None, "f(3)")
    assert "worker process 7 was killed by SIGKILL while it ran f(3)" in str(back)
    assert "memory" in str(back)
    assert isinstance(error, concurrent.futures.process.BrokenProcessPool)


def test_own_errors_pickle() -> None:
    for error in (
        freethreading.NotPicklableError("a"),
        freethreading.HandleGoneError("b"),
        freethreading.TaskTimeoutError("c"),
        RemoteError("d", "e", "f"),
    ):
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error)
        assert back.args == error.args
