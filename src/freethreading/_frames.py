"""The messages between a process engine and its workers: kinds, and the frames of a batch.

A task message's kind is the task's (CALL, ONE, STAR); its tag is the number of its flight. (Those that need no pickle, and
their answers, are the extension module's own: 4, 5 and 22.) A CALL's payload is one
pickle, (function, args, kwargs) or, where the caller's context variables are not those that the pool was made with,
(function, args, kwargs, difference) (see _contexts). A batch's is

    count of frames, u64 | size of each, u64 | the function's pickle | the difference | the first item's pickle | ...

An empty frame of an item stands for one that could not be pickled: the worker answers in its place, the program has the
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
NATIVE_VALUE = 22
PROGRESS = 23  # of a job

# A task message: the tag is a job's number, the index its function's in the log. The payload's frames: its buffer's handle,
# the function's pickle where it has no number, and, numbered, the handles of earlier jobs
# that are to be worked on before, the last one of them first.
JOB = 6

_WORD = 8


def pack(frames: Sequence[bytes | memoryview]) -> bytes:
    """One payload of a batch's frames, the function's first."""
    sizes = array("Q", [len(frames), *map(len, frames)])
    return b"".join((sizes.tobytes(), *frames))


def pack_number(number: int) -> bytes:
    """In front of what it numbers."""
    return number.to_bytes(_WORD, "little")


def unpack_number(frame: memoryview) -> tuple[int, memoryview]:
    """A number, and what is behind it."""
    return int.from_bytes(frame[:_WORD], "little"), frame[_WORD:]


def unpack(payload: bytes) -> list[memoryview]:
    """The frames of a batch's payload, without a copy; a ValueError where it is none."""
    view = memoryview(payload)
    count = int.from_bytes(view[:_WORD], "little")
    at = _WORD * (1 + count)
    if at > len(view):
        raise ValueError("malformed batch: its frames do not fit into it")
    sizes = array("Q", bytes(view[_WORD:at]))
    frames: list[memoryview] = []
    for size in sizes:
        frames.append(view[at : at + size])
        at += size
    if at != len(view):
        raise ValueError("malformed batch: its frames are not what is in it")
    return frames
