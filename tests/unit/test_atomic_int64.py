"""AtomicInt64 in one process: what its methods return, and which numbers they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from freethreading import AtomicInt64

LEAST, MOST = -(2**63), 2**63 - 1


@pytest.fixture(params=[False, True], ids=["private", "shared"])
def shared(request: pytest.FixtureRequest) -> bool:
    value: bool = request.param
    return value


def test_operations_return_what_was_before(shared: bool) -> None:
    number = AtomicInt64(shared=shared)
    assert number.load() == 0
    assert number.store(7) is None  # type: ignore[func-returns-value]
    assert number.fetch_add(5) == 7
    assert number.fetch_sub(2) == 12
    assert number.exchange(-1) == 10
    assert number.load() == -1


def test_compare_exchange_says_whether_it_did(shared: bool) -> None:
    number = AtomicInt64(3, shared=shared)
    assert number.compare_exchange(4, 9) is False
    assert number.load() == 3
    assert number.compare_exchange(desired=9, expected=3) is True
    assert number.load() == 9
    for wrong in ((), (1,), (1, 2, 3)):
        with pytest.raises(TypeError):
            number.compare_exchange(*wrong)  # type: ignore[call-arg]


def test_sums_and_differences_wrap_around(shared: bool) -> None:
    number = AtomicInt64(MOST, shared=shared)
    assert number.fetch_add(1) == MOST
    assert number.fetch_sub(1) == LEAST
    assert number.fetch_sub(LEAST) == MOST
    assert number.load() == -1
    number.fetch_add(MOST)
    number.fetch_add(MOST)
    assert number.load() == -3


CALLS: list[Callable[[Any, Any], Any]] = [
    lambda number, value: number.store(value),
    lambda number, value: number.fetch_add(value),
    lambda number, value: number.fetch_sub(value),
    lambda number, value: number.exchange(value),
    lambda number, value: number.compare_exchange(value, 0),
    lambda number, value: number.compare_exchange(0, value),
    lambda number, value: AtomicInt64(value),
]


@pytest.mark.parametrize("call", CALLS)
def test_numbers_are_integers_of_64_bits(call: Callable[[Any, Any], Any]) -> None:
    number = AtomicInt64(5)
    for value in (MOST + 1, LEAST - 1, 10**30):
        with pytest.raises(OverflowError, match="64 bits"):
            call(number, value)
    for wrong in (1.0, "1", None, b"1"):
        with pytest.raises(TypeError):
            call(number, wrong)
    assert number.load() == 5
    for value in (MOST, LEAST, True, np.int64(3), np.uint8(3)):
        call(number, value)


def test_its_text_has_the_value(shared: bool) -> None:
    assert repr(AtomicInt64(-4, shared=shared)).endswith(": value=-4>")


def test_a_subclass_with_a_default() -> None:
    class Ticket(AtomicInt64):
        def __init__(self) -> None:
            pass

    assert Ticket().fetch_add(1) == 0
