"""What another process may have written, damaged: each decoder gives a value or its one exception, and nothing else happens.

tools/fuzz does the same for longer, under sanitizers.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import tracemalloc
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

import freethreading
from freethreading import _core, _frames
from support.fuzzing import (
    BESIDE,
    DEEPEST,
    HEAD,
    NATIVE_VALUE,
    SLOT,
    Decoders,
    bomb,
    encode,
    length,
    random_value,
    same,
)

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(max_codepoint=0xFF))
    | st.binary()
)
KEYS = ATOMS | st.tuples(ATOMS, ATOMS)
VALUES = st.recursive(
    ATOMS | st.binary().map(bytearray),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
)
RANDOMS = st.randoms(use_true_random=True)  # seeded by what Hypothesis draws
NAMES = ("value", "bomb", "call", "keyword call", "buffers", "slots", "handle", "frames", "tag")


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders()
    yield made
    made.close()


def refused(data: bytes) -> bool:
    with pytest.raises(ValueError, match="malformed item"):
        _core.decode_value(data)
    return True


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


# --- all bytes


def test_every_decoder_is_met(decoders: Decoders) -> None:
    assert tuple(decoders.names) == NAMES


@settings(deadline=None, max_examples=40)
@given(value=VALUES)
def test_values_come_back(value: Any) -> None:
    comes_back(value)


@settings(deadline=None)
@given(random=RANDOMS)
def test_values_of_every_kind_come_back(random: Random) -> None:
    comes_back(random_value(random))


def comes_back(value: Any) -> None:
    expected = encode(value)
    assert same(_core.decode_value(expected), value)
    # The format is the one that the codec's header says.
    job = _core.MapJob.encode([value], False, 1)
    if job is not None:  # else it is one for pickle: too deep, or with something in it twice
        whole = bytes(memoryview(job.buffer))
        begin, end = struct.unpack_from("<II", whole, HEAD + SLOT)  # behind the one slot
        at = HEAD + SLOT + 8
        assert whole[at + begin : at + end] == expected


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes(name: str, decoders: Decoders) -> None:
    @settings(deadline=None, max_examples=50)
    @given(data=st.binary(max_size=300))
    def attempt(data: bytes) -> None:
        decoders.attempt(name, data)

    attempt()


@pytest.mark.parametrize("name", NAMES)
def test_mutated_bytes(name: str, decoders: Decoders) -> None:
    @settings(deadline=None, max_examples=200)
    @given(random=RANDOMS)
    def attempt(random: Random) -> None:
        decoders.attempt(name, decoders.mutant(name, random))

    attempt()


@settings(deadline=None)
@given(random=RANDOMS)
def test_no_part_of_an_encoding_is_one(random: Random) -> None:
    whole = encode(random_value(random))
    assert refused(whole[: random.randrange(len(whole))])
    assert refused(whole + b"N")


# --- one by one


def test_as_deep_as_the_encoder_goes_and_no_deeper() -> None:
    deepest = nested(DEEPEST)
    assert _core.decode_value(encode(deepest)) == deepest
    assert refused(encode(nested(DEEPEST + 1)))
    for opening in (b"[\x01", b"(\x01", b"{\x01"):
        assert refused(opening * 100_000)


@pytest.mark.parametrize("tag", [b"1", b"2", b"4", b"b", b"y", b"I", b"(", b"[", b"{"])
def test_a_length_that_is_not_there(tag: bytes) -> None:
    for size in (1, 2**31, 2**32, 2**61, 2**62, 2**63, 2**64 - 1):
        assert refused(tag + length(size))
    assert refused(tag + b"\x80" * 9 + b"\x02")  # 2**64, of which 64 bits are 0
    assert refused(tag + b"\x80" * 20)


def test_huge_lengths_take_little_memory() -> None:
    random = Random(1)
    bombs = [bomb(random) for _ in range(50)]
    tracemalloc.start()
    try:
        for data in bombs:
            with contextlib.suppress(ValueError):
                _core.decode_value(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A container of n items has a pointer for each, and there are n bytes for them.
    assert peak < 2 * DEEPEST * 8 * max(map(len, bombs))


def test_errors_leave_nothing_behind() -> None:
    random = Random(2)
    decoders = Decoders()
    mutants = [decoders.mutant("value", random) for _ in range(300)]
    mutants += [
        encode([b"x" * 100, {"k": "v"}, (1.5, 2**80)])[:-1],
        b"{\x02" + encode("k") * 4,
        b"{\x01[\x00N",
    ]

    def decode_all() -> int:
        for data in mutants:
            decoders.attempt("value", data)
        return sys.getallocatedblocks()

    before = [decode_all() for _ in range(3)][-1]
    after = [decode_all() for _ in range(10)][-1]
    assert after - before < len(mutants)


def test_a_character_beyond_unicode_is_an_error() -> None:
    for code in (0x110000, 0x7FFFFFFF, 0xFFFFFFFF):
        assert refused(b"4\x01" + code.to_bytes(4, "little"))
        assert refused(b"4\x03" + b"\x00\xf6\x01\x00" * 2 + code.to_bytes(4, "little"))


def test_a_str_that_is_wider_than_it_must_be_becomes_narrow() -> None:
    # The interpreter compares kinds first: as it came, it would not equal the same one.
    for data, value in (
        (b"2\x01a\x00", "a"),
        (b"2\x00", ""),
        (b"4\x00", ""),
        (b"4\x02a\x00\x00\x00\xac\x20\x00\x00", "a\u20ac"),
        (b"4\x01\xe9\x00\x00\x00", "\xe9"),
        (b"2\x02a\x00\xac\x20", "a\u20ac"),
    ):
        assert _core.decode_value(data) == value
        assert hash(_core.decode_value(data)) == hash(value)


def test_a_key_without_a_hash_is_an_error() -> None:
    for key in (b"[\x00", b"{\x00", b"y\x00", b"(\x01[\x00"):
        assert refused(b"{\x01" + key + b"N")


def test_a_key_that_comes_twice_has_its_last_value() -> None:
    assert _core.decode_value(b"{\x02" + encode("k") + b"N" + encode("k") + b"T") == {"k": True}


def test_arguments_of_a_call_that_are_no_arguments(decoders: Decoders) -> None:
    for value in (None, 5, [1], {}, "ab"):
        assert not decoders.attempt("call", encode(value))
        assert not decoders.attempt("keyword call", encode(value))
    for value in ((), ((),), ((), {}, {}), ([], {}), ((), ()), ((), None)):
        assert not decoders.attempt("keyword call", encode(value))
    assert decoders.attempt("keyword call", encode(((1, 2), {"k": 3})))


def test_a_table_of_buffers_that_reaches_outside(decoders: Decoders) -> None:
    def attempt(count: int, pickle: int, *entries: int) -> bool:
        table = struct.pack(f"<{2 + len(entries)}Q", count, pickle, *entries)
        return decoders.attempt("buffers", table.ljust(100, b"x"))

    assert attempt(0, 84)
    assert not attempt(0, 85)
    assert attempt(1, 0, 40, 60)
    assert attempt(1, 0, 100, 0)
    assert not attempt(1, 0, 40, 61)
    assert not attempt(1, 0, 101, 0)
    assert not attempt(1, 69, 40, 0)
    for huge in (2**60, 2**63 - 1, 2**63, 2**64 - 1):
        assert not attempt(huge, 0)
        assert not attempt(0, huge)
        assert not attempt(1, 0, huge, 1)
    assert not attempt(1, 0, 40, 2**62)
    decoders.tasks.put(NATIVE_VALUE | BESIDE, 1, 2, b"short")  # in the message's cell: there is no table
    with pytest.raises(ValueError, match="malformed item with buffers"):
        decoders.tasks.get(0)


def test_a_slot_that_says_that_more_is_in_it_than_fits(decoders: Decoders) -> None:
    # The value goes on in the next slots, of which nothing else is said.
    for size in (13, 16, 20, 40, 62):
        assert not decoders.attempt("slots", struct.pack("<I", 1 + size) + encode(bytes(size - 2)))
    for size in (64, 2**20, 2**31 - 2):
        assert not decoders.attempt("slots", struct.pack("<I", 1 + size) + encode(bytes(60)))


def test_handles_of_a_type_that_is_cut_off(decoders: Decoders) -> None:
    for handle in decoders.handles:
        assert decoders.attempt("handle", handle)
        assert not decoders.attempt("handle", handle[:36] + b"\x01\x00\x00\x00")
        for at in range(len(handle)):
            for bit in range(8):
                damaged = bytearray(handle)
                damaged[at] ^= 1 << bit
                assert not decoders.attempt("handle", bytes(damaged))


def test_frames_that_do_not_fit() -> None:
    whole = _frames.pack([b"one", b"", b"three"])
    assert [bytes(frame) for frame in _frames.unpack(whole)] == [b"one", b"", b"three"]
    for damaged in (b"", whole[:7], whole[:-1], whole + b"x", b"\xff" * 8, b"\xff" * 8 + whole[8:]):
        with pytest.raises(ValueError, match="malformed batch"):
            _frames.unpack(damaged)


def test_files_that_are_no_session() -> None:
    session, descriptor = _core.session_open()
    header = os.pread(descriptor, 4096, 0)
    other = struct.pack("<Q", session ^ 1)
    reserved = header[24:32]
    contents = (
        b"",
        b"x" * 200_000,
        header[:16] + other + reserved,  # shorter than a session's file ever is
        header[:16] + other + header[24:],
        (header[:16] + other + bytes(8) + header[32:]).ljust(200_000, b"\0"),  # nothing to map
        (header[:16] + other + struct.pack("<Q", 4096) + header[32:]).ljust(200_000, b"\0"),
    )
    for content in contents:
        made = os.memfd_create("no session")
        try:
            os.write(made, content)
            with pytest.raises((OSError, ValueError, RuntimeError)):
                _core.session_attach(made)
        finally:
            os.close(made)


def test_gone_handles_are_gone() -> None:
    handle = _core.handle_of(freethreading.Lock(shared=True))
    with pytest.raises(freethreading.HandleGoneError):
        _core.open_handle(handle)
