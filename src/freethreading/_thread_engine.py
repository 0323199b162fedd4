"""The engine whose workers are threads: one queue, and every worker takes from it."""

from __future__ import annotations

import contextlib
import threading
import time
from contextvars import Context, copy_context
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, Literal

from freethreading import _serialize
from freethreading._backend import strict_mode
from freethreading._contexts import Home
from freethreading._core import AtomicInt64, SimpleQueue, Submitter, ThreadJob, call_items, handing, serve
from freethreading._cpus import share_of
from freethreading._engine import (
    CALL,
    JOIN,
    OPEN,
    STAR,
    TERMINATED,
    Engine,
    Options,
    Sink,
    Task,
    call_item,
    forget,
    report_exception,
    terminated_error,
)
from freethreading._futures import FutureSink, PoolFuture
from freethreading._map_job import ASKED, JobFlight, JoinSink
from freethreading._stream import ThreadStream
from freethreading._strict import check_call, strict_call, strict_outcome
from freethreading._thread_worker import PoolThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Work = Task | PoolFuture[Any]
Queued = Work | Literal[True] | None

# How long a callback that waits for a result looks for a task of others to run before it looks for the result again.
PUMP_SECONDS = 0.01


class ThreadEngine(Engine):
    """Workers are threads of this process; nothing is pickled (FREETHREADING_STRICT=1: it is checked that it could be).

    What waits in the queue is a task, a future that carries its own call, or None: that tells one worker to look at the
    state; one that ends passes it on. True is there to wake one that waits. No lock is taken for a call while there are as
    many workers as there may be.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._made_in = copy_context()
        self._strict = strict_mode()
        self._queue: SimpleQueue[Queued] = SimpleQueue(shared=False)
        self._threads: set[PoolThread] = set()  # guarded by _lock
        # Those that hand out outcomes, hence in a callback; each thread enters and removes itself.
        self._handing: set[threading.Thread] = set()
        self._outstanding = AtomicInt64(0, shared=False)  # work taken in and not done
        self._started = 0  # guarded by _lock
        self._surplus = AtomicInt64(0, shared=False)  # how many workers are to leave; written under _lock
        # Those that are not complete, and the task that has a worker work on it.
        self._jobs: dict[JobFlight[ThreadJob], Task] = {}
        self._submitter = Submitter(PoolFuture, self._reference, self._queue, self._outstanding)
        self._submitter.is_open = not self._strict
        self.give = self._submitter.give
        if self._strict and options.initializer is not None:
            _serialize.check((options.initializer, options.initargs), ("initializer", "initargs"))
        if options.eager:
            try:
                with self._lock:
                    for _ in range(options.workers):
                        self._add_worker()
            except BaseException:  # the system has no more threads: those that were started end
                self.terminate()
                raise

    def submit(self, task: Task) -> None:
        self._put(task)

    def submit_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Context | None = None,
        item: int | None = None,  # noqa: ARG002
        owner: object = None,
        listener: Callable[[Any], object] | None = None,
    ) -> PoolFuture[Any]:
        future: PoolFuture[Any]
        if self._strict:
            try:
                check_call(function, args, kwargs)
            except Exception as error:
                if owner is not None:
                    raise
                future = PoolFuture(self._reference)
                future.prepare(None, listener)
                self._fail_at_once(future, error)
                return future
            function, args, kwargs = strict_call, (function, args, kwargs), {}
        future = PoolFuture(self._reference, function, args, kwargs, context)
        if owner is not None or listener is not None:
            future.prepare(owner, listener)
        self._put(future)
        return future

    def is_terminated(self) -> bool:
        """Whether its workers, where they run a call, are to end."""
        return self._state == TERMINATED

    def end_call(self, future: PoolFuture[Any]) -> bool:
        return not self.inherited and future.ask_to_end()

    def carries(self, function: Callable[..., Any]) -> bool:  # noqa: ARG002
        return not self._strict

    def for_map(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        return None if self._strict or self.options.max_tasks is not None else function

    def submit_map(
        self,
        function: Callable[..., Any],
        items: Sequence[Any],
        star: bool,
        sink: Sink,
        context: Context,
        first: int = 0,
    ) -> JobFlight[ThreadJob]:
        workers = self.options.workers
        flight = JobFlight(ThreadJob(items, star, workers), function, sink, first)
        flight.on_complete = partial(self.forget_job, flight)
        task = self._jobs[flight] = Task(JOIN, function, (flight,), JoinSink(flight), 0, context)
        try:
            for _ in range(min(len(items), workers)):
                self._put(task)
        except BaseException as error:
            self._jobs.pop(flight, None)
            flight.job.withdraw(True, error)
            raise
        return flight

    def open_stream(
        self, function: Callable[..., Any], sink: Sink, ordered: bool, context: Context
    ) -> ThreadStream | None:
        if self.for_map(function) is None:
            return None
        return ThreadStream(self, function, sink, ordered, context)

    def enter_job(self, flight: JobFlight[ThreadJob], context: Context) -> Task:
        """A job of a stream's: it is failed with the engine. The task that has a worker work on it."""
        if self._state != OPEN or self.broken is not None or self.inherited:
            self._refuse()
        task = self._jobs[flight] = Task(JOIN, flight.function, (flight,), JoinSink(flight), 0, context)
        return task

    def join_job(self, task: Task) -> None:
        """Has a worker more work on it."""
        self._put(task)

    def forget_job(self, flight: JobFlight[ThreadJob]) -> None:
        """It is complete."""
        self._jobs.pop(flight, None)

    def _put(self, work: Work) -> None:
        if self._state != OPEN or self.broken is not None or self.inherited:
            self._refuse()
        self._outstanding.fetch_add(1)
        self._queue.put(work)
        if not self._submitter.is_full:
            self.grow()

    def grow(self) -> None:
        """Starts a worker where there may be more, and there is work for it."""
        with self._lock:
            self._count_free()
            # A thread in a callback may wait for what comes here.
            wanted = min(self.options.workers, self._outstanding.load() + len(self._handing))
            if len(self._threads) < wanted:
                self._add_worker()

    def resize(self, workers: int) -> None:
        with self._lock:
            self._refuse()
            grown = workers - self.options.workers
            self.options = self.options._replace(workers=workers)
            self._count_surplus()
            for _ in range(self._surplus.load()):
                self._queue.put(True)  # those that wait look, too
            for flight, task in self._jobs.copy().items():
                if flight.is_stream and grown > 0:
                    flight.job.seal()  # an open one calls its workers by itself, no more than it was made for
                for _ in range(min(grown, len(flight.job))):
                    self._put(task)
            is_full = self.options.eager and self.options.idle_timeout is None
            out = workers if is_full else self._outstanding.load() + len(self._handing)
            while len(self._threads) < min(workers, out):
                self._add_worker()

    def _count_surplus(self) -> None:
        # Under the lock, whenever one comes or goes.
        self._surplus.store(max(0, len(self._threads) - self.options.workers))
        self._submitter.is_full = len(self._threads) >= self.options.workers
        self._count_free()

    def _count_free(self) -> None:
        # Under the lock, behind is_full: see _hand_out().
        self._submitter.enough = len(self._threads) - len(self._handing)

    def _leaves(self, me: PoolThread) -> bool:
        # Whether this worker, in no task, is one too many: then it is none of the engine's any more.
        with self._lock:
            leaves = len(self._threads) > self.options.workers
            if leaves:
                self._threads.discard(me)
            self._count_surplus()
        return leaves

    def _leaves_idle(self, me: PoolThread) -> bool:
        # Whether this worker, which had nothing to do for so long, leaves: then it is none of the engine's any more.
        with self._lock:
            self._threads.discard(me)
            self._count_surplus()
            # Behind that: who gives work looks for workers when it is in the queue, so it finds one less or is seen here.
            wanted = min(self.options.workers, self._outstanding.load() + len(self._handing))
            leaves = self._queue.empty() and len(self._threads) >= wanted
            if not leaves:
                self._threads.add(me)
            self._count_surplus()
        return leaves

    def cancel_pending(self) -> None:
        jobs = [flight for flight in list(self._jobs) if flight.sink.cancellable]
        for each in [*map(sink_of, self._take_all()), *map(JoinSink, jobs)]:
            try:
                each.cancel()
            except BaseException:  # a callback's: the others are cancelled too
                report_exception()

    def join(self, timeout: float | None = None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.inherited:
            with self._lock:
                thread = next(iter(self._threads), None)
            if thread is None:
                break
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return False
        return True

    def join_idle(self) -> None:
        while True:
            with self._lock:
                thread = next((thread for thread in self._threads if not thread.busy.load()), None)
            if thread is None:
                return
            thread.join(0.005)  # it may just have taken a task

    def in_engine(self) -> bool:
        return threading.current_thread() in self._threads

    def worker_count(self) -> int:
        return len(self._threads)

    def _set_broken(self, error: BaseException) -> None:
        super()._set_broken(error)
        self._submitter.is_open = False

    def _closing(self) -> None:
        self._submitter.is_open = False
        if self._state == TERMINATED:
            self._fail_all(terminated_error)
        self._queue.put(None)
        if not self._threads:
            self._release()

    def _release(self) -> None:
        # The last worker has ended. A pool that is kept when it is closed keeps no values of the caller's.
        if self._state != OPEN:
            self._made_in = Context()
        forget(self)

    def prepare(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if self._strict:
            _serialize.check(function, "func")
        return function

    def _add_worker(self) -> None:
        # Under the lock.
        prefix = self.options.name_prefix
        name = f"{prefix}_{self._started}" if prefix else None
        cpus = share_of(self.options.cpus, self.options.workers)
        thread = PoolThread(self._work, name, not self.options.lasting, cpus, self.is_terminated)
        self._started += 1
        self._threads.add(thread)
        self._count_surplus()
        try:
            thread.start()
        except BaseException:
            self._threads.discard(thread)
            self._count_surplus()
            raise

    def _work(self) -> None:
        me = this_thread()
        home = Home(self._made_in)
        left = False
        try:
            if self._initialise(home):
                me.home = home
                left = self._serve(me, home)
        finally:
            with self._lock:
                self._threads.discard(me)
                self._count_surplus()
                goes_on = self._state == OPEN and self.broken is None
                # Its max_tasks are used up.
                replace = goes_on and not left and len(self._threads) < self.options.workers
                if replace or (self._outstanding.load() and not self._threads):
                    try:
                        self._add_worker()
                    except RuntimeError:  # the interpreter ends: no more threads
                        goes_on = False
                ended = not self._threads and not goes_on
            if ended:
                self._fail_all(terminated_error)
                self._release()

    def _initialise(self, home: Home) -> bool:
        initializer = self.options.initializer
        if initializer is None:
            return True
        done, value = home.initialise(call_item, CALL, initializer, (self.options.initargs, {}))
        if not done:
            self._set_broken(value)
            broken = self.broken
            assert broken is not None
            self._fail_all(lambda: broken)
            self._queue.put(None)
        return done

    def _serve(self, me: PoolThread, home: Home) -> bool:
        # Until there is no more to do for it; True: because it leaves, and nobody is to come in its place.
        budget = self.options.max_tasks
        if budget is None:
            return self._serve_all(me, home)
        while budget > 0:
            if self._surplus.load() > 0 and self._leaves(me):
                return True
            try:
                work = self._queue.get(timeout=self.options.idle_timeout)
            except Empty:
                if self._leaves_idle(me):
                    return True
                continue
            if work is True:
                continue
            if work is None:
                if self._is_over():
                    return False
                continue
            me.busy.store(1)
            if self._do(work, me, home):
                budget -= 1
            me.busy.store(0)
            del work
        return False

    def _serve_all(self, me: PoolThread, home: Home) -> bool:
        # As _serve(), for workers that are not counted: calls run without a line of Python but these.
        queue, outstanding, busy, preparation = self._queue, self._outstanding, me.busy, home.preparation
        surplus, idle = self._surplus, self.options.idle_timeout
        while True:
            try:
                rest = serve(queue, outstanding, busy, preparation, surplus, idle)
            except Empty:
                if self._leaves_idle(me):
                    return True
                continue
            if rest is None:
                continue
            if rest is True:
                if surplus.load() > 0 and self._leaves(me):
                    return True
                continue
            if rest is False:
                if self._is_over():
                    return False
                continue
            busy.store(1)
            if isinstance(rest, Task):
                self._do_task(rest, me, home)
                if me not in self._threads:  # it left a job
                    return True
            else:
                future, answer = rest
                self._tell(me, future, answer)
                del future, answer
            busy.store(0)
            del rest

    def _is_over(self) -> bool:
        # Whether a worker that met a None ends; then the next one shall meet it.
        if self._state == OPEN and self.broken is None:
            return False
        self._queue.put(None)
        return True

    def _do(self, work: Work, me: PoolThread, home: Home) -> bool:
        # Does it and hands out its outcomes. False: it was cancelled.
        if self._state == TERMINATED:
            self._outstanding.fetch_sub(1)
            self._fail(work, terminated_error)
            return False
        if isinstance(work, Task):
            return self._do_task(work, me, home)
        answer = work.run(home.preparation, self._outstanding)
        if not isinstance(answer, bool):
            self._tell(me, work, answer)
        return answer is not False

    def _tell(self, me: PoolThread, future: PoolFuture[Any], answer: tuple[str, Any] | None) -> None:
        # What is left to do for a future that has run, by what its run() has answered.
        if answer is None:
            self._hand_out(me, future._invoke_callbacks)  # type: ignore[attr-defined]
        else:
            self._hand_out(me, getattr(future, answer[0]), answer[1])

    def _do_task(self, task: Task, me: PoolThread, home: Home) -> bool:
        if not task.sink.begin():
            self._outstanding.fetch_sub(1)
            return False
        if task.kind == JOIN:
            self._work_on(task, me, home)
            return True
        kind, function, context = task.kind, task.function, task.context
        deliver: Callable[..., object]
        given: tuple[list[Any], ...]
        outer, me.sink = me.sink, task.sink
        if self._strict:
            deliver = task.sink.deliver
            given = (
                [home.context_for(context).run(strict_outcome, kind, function, item) for item in task.items],
            )
        else:
            deliver = task.sink.deliver_values
            given = call_items(function, task.items, kind == STAR, context, home.preparation(context))
        me.sink = outer
        # Before the outcomes are known: who submits the next task then finds this worker free.
        self._outstanding.fetch_sub(1)
        self._hand_out(me, deliver, task.first, *given)
        return True

    def _work_on(self, task: Task, me: PoolThread, home: Home) -> None:
        called: JobFlight[ThreadJob] = task.items[0]
        preparation = home.preparation(task.context)
        # In a callback it is in another task besides, and cannot leave.
        surplus = None if me in self._handing else self._surplus
        flight: JobFlight[ThreadJob] | None = None
        while flight is not called:
            flight = called.next_to_run()
            while ran := self._run_some(flight, task, me, preparation, surplus):
                self._hand_out(me, flight.tell, ran == ASKED)
                leaves = surplus is not None and surplus.load() > 0 and self._leaves(me)
                # What it had set out to run is left to whoever takes this; a stream may have no end: others have their turn.
                if leaves or (flight.is_stream and self._state == OPEN and not self._queue.empty()):
                    self._queue.put(task)
                    return
            if flight is called:
                self._outstanding.fetch_sub(1)
            self._hand_out(me, flight.tell, False)
            if flight.is_stream and flight.job.is_complete:
                self.forget_job(flight)

    @staticmethod
    def _run_some(
        flight: JobFlight[ThreadJob],
        task: Task,
        me: PoolThread,
        preparation: Any,
        surplus: AtomicInt64 | None,
    ) -> int:
        outer, me.sink = me.sink, flight.sink
        ran = flight.job.run(task.function, task.context, preparation, surplus)
        me.sink = outer
        return ran

    def _hand_out(self, me: PoolThread, function: Callable[..., object], *args: Any) -> None:
        # Calls what may call callbacks.
        nested = me in self._handing
        if not nested:
            self._handing.add(me)
            # Behind the add: whoever finds later that the pool is not full counts this one too. What it may wait for may be
            # in the queue already.
            if not self._submitter.is_full:
                with contextlib.suppress(RuntimeError):  # no more threads: the next call asks again
                    self.grow()
        handing(True)
        try:
            function(*args)
        except BaseException:
            report_exception()
        finally:
            handing(False)
            if not nested:
                self._handing.discard(me)
                if not self._submitter.is_full:
                    with self._lock:
                        self._count_free()

    def pumping(self) -> bool:
        # In a callback: its worker may be the only one there is.
        return threading.current_thread() in self._handing

    def pump(self) -> None:
        if not all(thread.busy.load() for thread in list(self._threads)):
            time.sleep(PUMP_SECONDS)  # another worker takes what there is
            return
        try:
            work = self._queue.get(timeout=PUMP_SECONDS)
        except Empty:
            return
        if work is not None and work is not True:
            me = this_thread()
            assert me.home is not None
            self._do(work, me, me.home)
            return
        self._queue.put(work)  # it is for one that waits
        time.sleep(PUMP_SECONDS)

    def _take_all(self) -> list[Work]:
        # Takes all that waits out of the queue.
        found: list[Work] = []
        sentinel = False
        while not self._queue.empty():
            try:
                work = self._queue.get_nowait()
            except Empty:  # a worker was faster
                break
            if work is None:
                sentinel = True
            elif work is not True:  # those that wait have been woken by it, or will be by the end
                found.append(work)
        if sentinel:
            self._queue.put(None)
        self._outstanding.fetch_sub(len(found))
        return found

    def _fail_all(self, error: Callable[[], BaseException]) -> None:
        for work in self._take_all():
            self._fail(work, error)
        for flight in list(self._jobs):
            self._jobs.pop(flight, None)
            try:
                flight.fail(error())
            except BaseException:  # a callback's
                report_exception()

    def _fail(self, work: Work, error: Callable[[], BaseException]) -> None:
        sink = sink_of(work)
        try:
            if sink.begin():
                items = len(work.items) if isinstance(work, Task) else 1
                sink.deliver(
                    work.first if isinstance(work, Task) else 0, [(False, error()) for _ in range(items)]
                )
        except BaseException:  # a callback's: the others fail too
            report_exception()


def sink_of(work: Work) -> Sink:
    """Where the outcomes of a task, or of a future's own call, go."""
    return work.sink if isinstance(work, Task) else FutureSink(work)


def this_thread() -> PoolThread:
    """The worker that calls."""
    me = threading.current_thread()
    assert isinstance(me, PoolThread)
    return me
