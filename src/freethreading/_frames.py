"""The messages between a process engine and its workers: kinds, and the frames of a batch.

A task message's kind is the task's (CALL, ONE, STAR); its tag is the number of its flight. A CALL's payload is one
pickle, (function, args, kwargs). A batch's is

    count of frames, u64 | size of each frame, u64 | the function's pickle | the first item's pickle | ...

An empty frame stands for an item that could not be pickled: the worker answers in its place, the program has the
reason.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

# Kinds of result messages. READY and START_FAILED carry the worker's number as tag, the others a flight's number.
READY = 16
START_FAILED = 17
VALUE = 18
ERROR = 19
UNSENT = 20  # the answer to an empty frame
NUDGE = 21  # from the program to its own drainer: look at the state

_WORD = 8


def pack(frames: Sequence[bytes]) -> bytes:
    """One payload of a batch's frames, the function's first."""
    sizes = array("Q", [len(frames), *map(len, frames)])
    return b"".join((sizes.tobytes(), *frames))


def unpack(payload: bytes) -> list[memoryview]:
    """The frames of a batch's payload, without a copy."""
    view = memoryview(payload)
    count = int.from_bytes(view[:_WORD], "little")
    at = _WORD * (1 + count)
    sizes = array("Q", bytes(view[_WORD:at]))
    frames: list[memoryview] = []
    for size in sizes:
        frames.append(view[at : at + size])
        at += size
    return frames
