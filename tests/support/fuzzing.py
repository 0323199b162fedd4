"""Bytes as a broken or hostile process might have written them, and everything that decodes bytes of another process.

For tests/unit/test_fuzzed_bytes.py and, under sanitizers, tools/fuzz. What is decoded here runs nobody's code: pickles and
marshalled descriptions do, or may, and are as trusted as the program itself (SECURITY.md).
"""

from __future__ import annotations

import contextvars
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import freethreading
from freethreading import _core, _frames, _main_module

DEEPEST = 16  # containers in each other that the codec takes
NATIVE_CALL, NATIVE_KEYWORD_CALL, NATIVE_VALUE, BESIDE = 4, 5, 22, 0x100
HEAD, SLOT = 128, 16  # bytes of a job's header and of one of its slots
JOB_ITEMS = 6
HUGE = (0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)


# --- the codec's format, written a second time (binding/codec.hpp)


def length(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def encode(value: Any) -> bytes:
    """What the native codec makes of a value."""
    if value is None or value is True or value is False:
        return {None: b"N", True: b"T", False: b"F"}[value]
    kind = type(value)
    if kind is int:
        if -128 <= value < 128:
            return b"j" + value.to_bytes(1, "little", signed=True)
        if -(2**63) <= value < 2**63:
            return b"i" + value.to_bytes(8, "little", signed=True)
        size = value.bit_length() // 8 + 1
        return b"I" + length(size) + value.to_bytes(size, "little", signed=True)
    if kind is float:
        return b"d" + struct.pack("<d", value)
    if kind is str:
        greatest = max(map(ord, value), default=0)
        width, coding = (
            (1, "latin-1")
            if greatest < 0x100
            else (2, "utf-16-le")
            if greatest < 0x10000
            else (4, "utf-32-le")
        )
        return b"%d" % width + length(len(value)) + value.encode(coding, "surrogatepass")
    if kind in (bytes, bytearray):
        return (b"b" if kind is bytes else b"y") + length(len(value)) + value
    if kind is dict:
        pairs = (encode(key) + encode(item) for key, item in value.items())
        return b"{" + length(len(value)) + b"".join(pairs)
    assert kind in (tuple, list)
    return (b"(" if kind is tuple else b"[") + length(len(value)) + b"".join(map(encode, value))


def same(left: Any, right: Any) -> bool:
    """Equal, type for type; a nan is the same as another one."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    return bool(left == right)


def random_value(random: Random, depth: int = 0) -> Any:
    """A value that the codec takes."""
    kind = random.randrange(7 if depth > 3 else 11)
    if kind == 0:
        return random.choice((None, True, False, 0.0, -1.5, math.inf, math.nan))
    if kind == 1:
        return random.randrange(-300, 300)
    if kind == 2:
        return random.choice((-1, 1)) * random.getrandbits(random.choice((31, 62, 64, 65, 400)))
    if kind in (3, 4):
        alphabet = random.choice(("ab", "\xe9\xff", "a\u20ac\ud800\udfff", "z\U0001f600\U0010ffff"))
        return "".join(random.choices(alphabet, k=random.choice((0, 1, 2, 7, 40, 600))))
    if kind in (5, 6):
        data = random.randbytes(random.choice((0, 1, 3, 40, 600)))
        return data if kind == 5 else bytearray(data)
    inner = [random_value(random, depth + 1) for _ in range(random.choice((0, 1, 2, 5)))]
    if kind == 7:
        return tuple(inner)
    if kind in (8, 9):
        keys = (number if random.random() < 0.5 else str(number) for number in range(len(inner)))
        return dict(zip(keys, inner, strict=False))
    return inner


# --- mutations


def bomb(random: Random) -> bytes:
    """Containers that claim to be as long as what is left, or to go deeper than anything may."""
    opening = random.choice((b"[", b"(", b"{"))
    if random.random() < 0.5:
        return (opening + b"\x01") * random.choice((DEEPEST - 1, DEEPEST, DEEPEST + 1, 2000)) + b"N"
    size = random.choice((100, 3000))
    return b"".join(opening + length(size - 3 * depth) for depth in range(DEEPEST)) + b"N" * size


def mutate(random: Random, data: bytes, other: bytes) -> bytes:
    """Valid bytes, a little less so: one to four changes."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(out) + 1)
        kind = random.randrange(9)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out += random.randbytes(random.choice((1, 2, 8, 100)))
        elif kind == 4:  # one of another length, or of none
            out[at : at + random.choice((0, 1, 2))] = length(random.choice(HUGE))
        elif kind == 5:
            out[at & ~7 : (at & ~7) + 8] = struct.pack("<Q", random.choice(HUGE))
        elif kind == 6:
            begin = random.randrange(len(other) + 1)
            out[at : at + random.randrange(9)] = other[begin : begin + random.randrange(40)]
        elif kind == 7:
            out[at:at] = random.choice(
                (b"N", b"[", b"(", b"{", b"1", b"2", b"4", b"b", b"y", b"I", b"i", b"d")
            )
        else:
            del out[at : at + random.randrange(1, 9)]
    return bytes(out)


# --- what decodes


class Wrong(Exception):
    """A decoder took bytes for what they are not."""


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Wrong(what)


def table(random: Random) -> bytes:
    """A block with buffers beside a pickle (binding/payload.hpp)."""
    pickle = random.randbytes(random.randrange(50))
    buffers = [random.randbytes(random.choice((0, 1, 64, 100))) for _ in range(random.randrange(4))]
    head = 16 + 16 * len(buffers)
    entries, body = b"", pickle
    for buffer in buffers:
        entries += struct.pack("<QQ", head + len(body), len(buffer) | random.randrange(2) << 63)
        body += buffer
    # As long as what does not fit into a message's cell.
    return struct.pack("<QQ", len(buffers), len(pickle)) + entries + body + bytes(24)


class Decoders:
    """Every decoder: a call that gives a value, or raises what the decoder says that it raises."""

    def __init__(self) -> None:
        self.objects: list[Any] = [
            freethreading.Lock(shared=True),
            freethreading.Event(shared=True),
            freethreading.SimpleQueue(shared=True),
            freethreading.AtomicInt64(shared=True),
            _core.SharedBuffer(1000, shared=True),
        ]
        self.tasks, self.results, self.log = _core.Channel(), _core.Channel(), _core.BlobLog()
        self.record = _core.WorkerRecord()
        self.terms = _core.WorkerTerms(self.record, self.objects[3], None, None)
        self.handles = [_core.handle_of(item) for item in self.objects]
        self.handles += [self.tasks.handle, self.log.handle, self.record.handle]
        self.names: dict[str, tuple[Callable[[bytes], object], Callable[[Random], bytes]]] = {
            "value": (self.value, lambda random: encode(random_value(random))),
            "bomb": (self.value, bomb),
            "call": (self.call, lambda random: encode(tuple(random_value(random, 3) for _ in range(2)))),
            "keyword call": (
                self.keyword_call,
                lambda random: encode(((random_value(random, 3),), {"k": random_value(random, 3)})),
            ),
            "buffers": (self.buffers, table),
            "slots": (self.slots, self._slots),
            "handle": (self.handle, lambda random: random.choice(self.handles)),
            "frames": (
                self.frames,
                lambda random: _frames.pack([random.randbytes(random.randrange(9)) for _ in range(4)]),
            ),
            "tag": (
                self.tag,
                lambda random: _main_module.tag([(random.getrandbits(64), random.choice(self.handles))]),
            ),
        }

    def close(self) -> None:
        """Lets go of all objects: whoever keeps this keeps none of them."""
        self.__dict__.clear()

    def attempt(self, name: str, data: bytes) -> bool:
        """Whether the bytes were something. Raises what none of the decoders may."""
        decode, _ = self.names[name]
        try:
            decode(data)
        except ValueError:
            return False
        except freethreading.HandleGoneError:
            expect(name == "handle", "no handle, but one is gone")
            return False
        except struct.error:
            expect(name == "tag", "no tag, but something of it is missing")
            return False
        return True

    def original(self, name: str, random: Random) -> bytes:
        return self.names[name][1](random)

    def mutant(self, name: str, random: Random) -> bytes:
        return mutate(random, self.original(name, random), self.original(name, random))

    def value(self, data: bytes) -> None:
        value = _core.decode_value(data)
        expect(same(_core.decode_value(encode(value)), value), "not what the value's own encoding is")
        repr(value)

    def call(self, data: bytes) -> None:
        self._serve(NATIVE_CALL, data)

    def keyword_call(self, data: bytes) -> None:
        self._serve(NATIVE_KEYWORD_CALL, data)

    def _serve(self, kind: int, data: bytes) -> None:
        failures: list[BaseException] = []

        def answer(done: bool, outcome: Any) -> tuple[int, bytes, list[object], list[memoryview]]:
            failures.append(outcome)
            return 19, b"", [], []

        namespace = {"take": take}
        self.tasks.put(kind, 7, 1, data)
        served, message = _core.serve_calls(
            self.tasks,
            self.results,
            self.terms,
            {},
            lambda number: (take, namespace, "take"),
            contextvars.copy_context(),
            None,
            answer,
            1,
        )
        expect((served, message) == (1, None), "a call was not served")
        answered = self.results.get(0)
        expect(answered is not None and answered[1] == 7, "a call was not answered")
        for failure in failures:
            if type(failure) is TypeError and "keywords must be strings" in str(failure):
                continue  # as the interpreter says it
            raise failure

    def buffers(self, data: bytes) -> None:
        self.tasks.put(NATIVE_VALUE | BESIDE, 7, 0, data)
        kind, tag, _, (pickle, views), _ = self.tasks.get(0)
        expect((kind, tag) == (NATIVE_VALUE, 7), "another message")
        for view in (pickle, *views):
            expect(bytes(view) in data, "bytes that are not the message's")

    def slots(self, data: bytes) -> None:
        job = _core.MapJob.encode(list(range(JOB_ITEMS)), False, 1)
        assert job is not None
        memoryview(job.buffer)[HEAD : HEAD + JOB_ITEMS * SLOT] = data.ljust(JOB_ITEMS * SLOT, b"\0")[
            : JOB_ITEMS * SLOT
        ]
        for _ in range(JOB_ITEMS):
            _, values, _ = job.collect_any()
            repr(values)

    def _slots(self, random: Random) -> bytes:
        slots = b""
        for _ in range(JOB_ITEMS):
            small = encode(random_value(random, 4))[: SLOT - 4]
            head = random.choice(
                (1 + len(small), 1 + len(small), 0, 0x40, 1 << 31 | 5, random.getrandbits(32))
            )
            slots += struct.pack("<I", head) + small.ljust(SLOT - 4, b"\0")
        return slots

    def handle(self, data: bytes) -> None:
        for opener in (_core.open_handle, _core.Channel.open, _core.BlobLog.open, _core.WorkerRecord.open):
            try:
                opened: Any = opener(data)
            except (ValueError, freethreading.HandleGoneError) as error:
                refused = error
                continue
            found = opened.handle if hasattr(opened, "handle") else _core.handle_of(opened)
            expect(found == data, "another object than the handle's")
            return
        raise refused

    def frames(self, data: bytes) -> None:
        frames = _frames.unpack(data)
        expect(_frames.pack(frames) == data, "other frames")

    def tag(self, data: bytes) -> None:
        _main_module.arrive(data)


def take(*args: Any, **kwargs: Any) -> int:
    """What calls of mutated arguments call."""
    return len(args) + len(kwargs)
