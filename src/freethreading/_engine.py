"""What a pool or an executor runs its calls on: tasks in, outcomes back, whatever the workers are.

A `Task` is one message's worth of calls of one function. The engine runs its items in order and gives each one's
outcome to the task's `Sink`. Pool and executor are thin over this: they make tasks and sinks; `ThreadEngine` and
`ProcessEngine` run them. docs/design/engine.md has the whole protocol.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from freethreading._backend import backend_of_workers
from freethreading._futures import ChunkSink, PoolFuture
from freethreading._items import (
    CALL as CALL,
    CLOSED as CLOSED,
    JOIN as JOIN,
    ONE as ONE,
    OPEN as OPEN,
    STAR as STAR,
    TERMINATED as TERMINATED,
    EngineClosedError as EngineClosedError,
    Outcome as Outcome,
    call_item as call_item,
)

if TYPE_CHECKING:
    from freethreading._map_job import JobFlight
    from freethreading._stream import Stream


class Sink(Protocol):
    """Where outcomes go. Called from any thread, never with an engine's lock held (but for `begin`)."""

    # Whether a task may still be withdrawn while no worker has it; if so the engine keeps it back until one is near.
    cancellable: bool

    def begin(self) -> bool:
        """The task goes to a worker now. False: it was cancelled, drop it."""
        ...

    def cancel(self) -> None:
        """The task will not run."""
        ...

    def deliver(self, first: int, outcomes: list[Outcome]) -> None:
        """Outcomes of the items first, first + 1, ...; the list is the sink's, which may empty it."""
        ...

    def deliver_values(self, first: int, values: list[Any], failures: list[int]) -> None:
        """The same as a list of values, but for exceptions at the indices in `failures`."""
        ...


class Task:
    """Calls of one function: `items` as `kind` says; `first` is the first one's index in its sink.

    `context` has the caller's context variables (default: as they are now); it may be shared with other tasks.
    """

    __slots__ = ("context", "first", "function", "items", "kind", "sink")

    def __init__(
        self,
        kind: int,
        function: Callable[..., Any],
        items: Sequence[Any],
        sink: Sink,
        first: int = 0,
        context: Context | None = None,
    ) -> None:
        self.kind = kind
        self.function = function
        self.items = items
        self.sink = sink
        self.first = first
        self.context = copy_context() if context is None else context


class Options(NamedTuple):
    """What an engine is asked to be. `lasting`: at the program's end its work is completed, not dropped."""

    workers: int
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    name_prefix: str = ""
    max_tasks: int | None = None
    idle_timeout: float | None = None  # seconds
    max_memory: int | None = None  # bytes; of processes
    cpus: int = 1  # that its workers have together
    eager: bool = False
    lasting: bool = True
    # What the calls of an engine raise that this exception broke.
    broken_error: Callable[[BaseException], BaseException] = lambda error: error


class Engine:
    """Base of the engines. Methods may be called from any thread, also from a sink; `abandon` also from a
    finaliser."""

    # Where it is not None, give(function, args, kwargs) is submit_call() of these alone; None: this time it is not.
    give: Callable[..., PoolFuture[Any] | None] | None = None
    exit_grace = 0.1  # seconds that the program's end waits for the workers of one that is not lasting

    def __init__(self, options: Options) -> None:
        self.options = options  # replaced under _lock
        self.broken: BaseException | None = None  # why no call can succeed any more
        self._broken_trace: TracebackType | None = None
        self._state = OPEN
        self._lock = threading.RLock()  # an RLock: a finaliser that runs under it may submit or shut down
        self._pid = os.getpid()
        self._process = _process
        self._reference = weakref.ref(self)  # for its futures
        _live.add(self)

    # What the kinds of engine define.

    def submit(self, task: Task) -> None:
        """Takes a task. Raises where the engine is shut, and what pickling its function or its one call raises."""
        raise NotImplementedError

    def submit_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context | None = None,
        item: int | None = None,
        owner: object = None,
        listener: Callable[[Any], object] | None = None,
    ) -> PoolFuture[Any]:
        """Takes one call, of a map's item where one is given. What pickling it raises is the future's exception; where there
        is an `owner`, which lives until the call is done, it is raised. `listener` is called by the engine when the call is
        done, never by the caller.
        """
        raise NotImplementedError

    def end_call(self, future: PoolFuture[Any]) -> bool:
        """Has the call, which a worker runs or has taken, be cancelled: a process ends, a thread is asked to. Waits for
        nobody. False: it was not asked, since no worker runs it, or this is a forked child.
        """
        raise NotImplementedError

    def end_map(self, sink: Sink) -> None:
        """Nobody wants what is left of this sink's map, whose jobs are cancelled: its chunks that have not begun are taken
        back, and workers that run some of it end; threads are asked to (check_cancelled()). Nothing happens in a forked
        child.
        """

    def carries(self, function: Callable[..., Any]) -> bool:
        """Whether submit_call() of this function costs less than a task of one item."""
        raise NotImplementedError

    def submit_for(
        self,
        future: PoolFuture[Any],
        kind: int,
        function: Callable[..., Any],
        items: Sequence[Any],
        first: int = 0,
        context: Context | None = None,
    ) -> PoolFuture[Any]:
        """Takes a task of several items, whose outcomes as a list are the future's result."""
        try:
            self.submit(Task(kind, function, items, ChunkSink(future, first, len(items)), first, context))
        except Exception as error:
            self._fail_at_once(future, error)
        return future

    def _fail_at_once(self, future: PoolFuture[Any], error: Exception) -> None:
        # Of a call that could not be taken: its own exception goes to its future, the engine's is raised.
        if isinstance(error, EngineClosedError) or self.inherited or error is self.broken:
            raise error
        future.set_running_or_notify_cancel()
        future.set_exception(error)

    def for_map(self, function: Callable[..., Any]) -> Callable[..., Any] | None:  # noqa: ARG002
        """The function as submit_map() takes it, in this context; None: a map of it has to be submitted in chunks."""
        return None

    def submit_map(
        self,
        function: Callable[..., Any],
        items: Sequence[Any],
        star: bool,
        sink: Sink,
        context: Context,
        first: int = 0,
    ) -> JobFlight[Any] | None:
        """Takes a map, not an empty one, that workers share out among themselves; `first` is its first item's index in the
        sink. None: it has to be submitted in chunks. REQUIRES: for_map() gave the function.
        """
        raise NotImplementedError

    def open_stream(
        self,
        function: Callable[..., Any],  # noqa: ARG002
        sink: Sink,  # noqa: ARG002
        ordered: bool,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> Stream | None:
        """A stream of this function's calls, whose sink is a StreamSink too. None: they have to be submitted as tasks. To be
        called in the context.
        """
        return None

    def cancel_pending(self) -> None:
        """Cancels every task that no worker has yet."""
        raise NotImplementedError

    def join(self, timeout: float | None = None) -> bool:
        """Waits until all workers have ended. False: not yet. REQUIRES: closed, and not in_engine()."""
        raise NotImplementedError

    def join_idle(self) -> None:
        """Waits, after terminate(), for the workers that it ends: not for a thread that is in a task."""
        raise NotImplementedError

    def in_engine(self) -> bool:
        """Whether the calling thread is one that the engine cannot end without: waiting for its end would never end."""
        raise NotImplementedError

    def resize(self, workers: int) -> None:
        """From now on there are so many workers at most, as Options.workers says then. Waits for none of them. Raises where
        the engine is shut or broken.
        """
        raise NotImplementedError

    def worker_count(self) -> int:
        """How many workers there are now."""
        raise NotImplementedError

    def _closing(self) -> None:
        """The state has grown: wake whoever acts on it. May run in a finaliser: waits for nobody."""
        raise NotImplementedError

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What a batch's tasks carry as their function, made once a batch. Raises what pickling it raises."""
        return function

    def pumping(self) -> bool:
        """Whether the calling thread is the only one that hands out outcomes (it runs a callback): it must pump()."""
        return False

    def pump(self) -> None:
        """Hands out some outcomes, or waits a moment for one: so a callback may wait for another call's result."""
        raise NotImplementedError

    # What they have in common.

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child's copy: its workers are the parent's."""
        return self._process is not _process

    @property
    def state(self) -> int:
        return self._state

    def refuse_inherited(self) -> NoReturn:
        """Raises the error of using a pool in a forked child."""
        raise RuntimeError(
            f"this pool's workers belong to process {self._pid}, which forked this one; make a new pool here"
        )

    def close(self) -> None:
        """No more tasks; the workers end when the last one is done. Does nothing the second time, or in a child."""
        if not self.inherited:
            with self._lock:
                self._state = max(self._state, CLOSED)
            self._closing()

    def terminate(self) -> None:
        """No more tasks; those that are not done fail (on threads: those that have not begun)."""
        if not self.inherited:
            with self._lock:
                self._state = TERMINATED
            self._closing()

    def abandon(self, state: int) -> None:
        """close() or terminate() from a finaliser, when nobody can submit any more: without the lock."""
        if not self.inherited:
            self._state = max(self._state, state)
            self._closing()

    def _refuse(self) -> None:
        # Raises what submit() raises in this state. Under the lock.
        if self.inherited:
            self.refuse_inherited()
        if self._state != OPEN:
            raise EngineClosedError
        if self.broken is not None:
            raise self.broken.with_traceback(self._broken_trace)  # else each raise would add to the traceback

    def _set_broken(self, error: BaseException) -> None:
        with self._lock:
            if self.broken is None:
                broken = self.options.broken_error(error)
                self._broken_trace = broken.__traceback__
                self.broken = broken

    def _hand(self, task: Task, first: int, outcomes: list[Outcome]) -> None:
        # Gives outcomes to a sink. A callback's exception is reported and goes no further: workers and drainer go on.
        try:
            task.sink.deliver(task.first + first, outcomes)
        except BaseException:
            report_exception()


def leaving() -> bool:
    """Whether this process is at its end, and has ended its engines."""
    return _left_pid == os.getpid()


def terminated_error() -> RuntimeError:
    return RuntimeError("the pool was terminated before this call was done")


def report_exception() -> None:
    """Reports the exception being handled as a thread's uncaught one, and goes on."""
    error = sys.exc_info()[1]
    assert error is not None
    report(error)


def report(error: BaseException) -> None:
    """Reports it as a thread's uncaught exception."""
    fields = (type(error), error, error.__traceback__, threading.current_thread())
    threading.excepthook(threading.ExceptHookArgs(fields))


def make_engine(options: Options) -> Engine:
    """An engine of the back end that is chosen now."""
    _hook_exit()
    if backend_of_workers():
        from freethreading._process_engine import ProcessEngine

        return ProcessEngine(options)
    from freethreading._thread_engine import ThreadEngine

    return ThreadEngine(options)


# Every engine of this process whose workers have not ended. At exit the lasting ones complete their work, the others
# drop it; a forked child has none.
_live: set[Engine] = set()
_process = object()  # another one in a forked child
_hooked_pid = 0
_left_pid = 0


def _hook_exit() -> None:
    # Raises where the interpreter is at its end.
    global _hooked_pid
    if leaving():
        raise RuntimeError("cannot make a pool after interpreter shutdown")
    if _hooked_pid != os.getpid():
        try:
            threading._register_atexit(leave)  # type: ignore[attr-defined]  # before non-daemon threads are joined
        except RuntimeError:  # the interpreter is past that
            raise RuntimeError("cannot make a pool after interpreter shutdown") from None
        _hooked_pid = os.getpid()


def forget(engine: Engine) -> None:
    """The engine's last worker has ended."""
    _live.discard(engine)


def leave() -> None:
    """Ends every engine: the program, or the child process that made them, ends."""
    global _left_pid
    _left_pid = os.getpid()
    engines = [engine for engine in list(_live) if not engine.inherited]
    for engine in engines:
        if engine.options.lasting:
            engine.close()
        else:
            engine.terminate()
    for engine in engines:
        engine.join(None if engine.options.lasting else engine.exit_grace)


def _after_fork_in_child() -> None:
    global _process
    _process = object()
    _live.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
