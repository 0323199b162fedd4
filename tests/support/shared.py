"""What the calls of a test share with it, and what several tests have called."""

from __future__ import annotations

import os
import signal
from typing import Any

import freethreading


class Shared:
    """What calls count in and wait at; gone when the test is."""

    def __init__(self) -> None:
        self.counter: Any = freethreading.AtomicInt64()
        self.gate: Any = freethreading.Event()

    def initargs(self) -> tuple[Any, Any]:
        return self.counter, self.gate


def reject_odd(number: int) -> int:
    if number % 2:
        raise ValueError(f"odd: {number}")
    return number


def die_at(item: tuple[int, list[int]]) -> int:
    number, victims = item
    if number in victims:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_now_and_then(number: int) -> int:
    if number % 97 == 96:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def just(value: Any) -> Any:
    return value
