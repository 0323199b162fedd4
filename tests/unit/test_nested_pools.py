"""Pools in the calls of pools: they neither wait for each other nor run more workers than there are CPUs."""

from __future__ import annotations

from typing import Any

import pytest

import freethreading
from freethreading import _cpus
from support.shared import Shared


def size(_: object = None) -> int:
    """How many workers a pool has by default here."""
    with freethreading.WorkerPool() as pool:
        executor = freethreading.WorkerPoolExecutor()
        assert executor._max_workers == pool._engine.options.workers
        executor.shutdown()
        return pool._engine.options.workers


def sizes_within(workers: int) -> list[int]:
    with freethreading.WorkerPool(workers) as pool:
        return pool.map(size, range(workers))


def run_and_count(counters: tuple[Any, Any]) -> None:
    running, most = counters
    now = running.fetch_add(1) + 1
    before = most.load()
    while now > before and not most.compare_exchange(before, now):
        before = most.load()
    sum(range(20_000))
    running.fetch_sub(1)


def map_in_a_pool(counters: tuple[Any, Any]) -> int:
    with freethreading.WorkerPool() as pool:
        pool.map(run_and_count, [counters] * 20, chunksize=1)
        return pool._engine.options.workers


def deeper(depth: int) -> int:
    if depth == 0:
        return 1
    with freethreading.WorkerPool(2) as pool:
        return sum(pool.map(deeper, [depth - 1] * 2))


def test_a_pool_in_a_call_has_its_share_of_the_cpus(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "usable_cpus", lambda: 12)
    assert size() == 12
    with freethreading.WorkerPool(3) as pool:
        assert pool.map(size, range(6)) == [4] * 6
        assert pool.apply(sizes_within, (2,)) == [2, 2]
        assert pool.apply(sizes_within, (9,)) == [1] * 9
    with freethreading.WorkerPoolExecutor(5) as executor:
        assert list(executor.map(size, range(5))) == [2] * 5
    assert size() == 12


def test_no_more_workers_run_than_there_are_cpus(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "usable_cpus", lambda: 4)
    most = Shared()
    running = Shared()
    with freethreading.WorkerPool(2) as pool:
        counters = running.counter, most.counter
        assert pool.map(map_in_a_pool, [counters] * 4) == [2] * 4
    assert running.counter.load() == 0
    assert 0 < most.counter.load() <= 4


def test_pools_in_pools_in_pools(backend: str) -> None:
    assert deeper(3) == 8


def test_both_back_ends_in_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "usable_cpus", lambda: 8)
    for outer, inner in [("threading", "multiprocessing"), ("multiprocessing", "threading")]:
        monkeypatch.setenv("FREETHREADING_BACKEND", outer)
        with freethreading.WorkerPool(2) as pool:
            assert pool.apply(backends_within, (inner,)) == (outer, inner, 4)


def backends_within(inner: str) -> tuple[str, str, int]:
    import os

    mine = freethreading.get_backend()
    before = os.environ["FREETHREADING_BACKEND"]
    os.environ["FREETHREADING_BACKEND"] = inner
    try:
        with freethreading.WorkerPool() as pool:
            return mine, pool.apply(freethreading.get_backend), pool._engine.options.workers
    finally:
        os.environ["FREETHREADING_BACKEND"] = before
