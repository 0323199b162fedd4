"""What an item of a shared queue becomes on its way: the native encoding, a pickle, buffers beside a pickle."""

from __future__ import annotations

import array
import collections
import ctypes
import gc
import os
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import freethreading
from freethreading import _core
from support.fuzzing import same

BIG = 100_000  # bytes: more than goes inside of a pickle
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-200, 200)
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
)
KEYS = ATOMS | st.tuples(ATOMS, ATOMS)
VALUES = st.recursive(
    ATOMS | st.binary(max_size=2000).map(bytearray),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
)


def through(item: Any) -> Any:
    queue: Any = freethreading.SimpleQueue(shared=True)
    queue.put(item)
    return queue.get()


@settings(deadline=None)
@given(value=VALUES)
def test_plain_values_arrive_as_they_are(value: Any) -> None:
    assert same(through(value), value)


@pytest.mark.parametrize(
    "size", [0, 1, 38, 39, 40, 41, 127, 128, 511, 512, 513, 16383, 16384, 70_000, 3_000_000]
)
def test_strings_of_every_length(size: int) -> None:
    for value in (b"b" * size, "a" * size, "é" * size, "\u20ac" * size, "\U0001f600" * size, bytearray(size)):
        assert same(through(value), value)
        assert same(through((value, [value])), (value, [value]))


def test_nan_and_lone_surrogates() -> None:
    nan = through(float("nan"))
    assert nan != nan
    assert through("\ud800x") == "\ud800x"


def test_identity_within_an_item_is_kept() -> None:
    inner: list[Any] = []
    text = "t" * 5000
    first = through([inner, inner, text, text, {"k": inner}])
    assert first[0] is first[1] is first[4]["k"]
    assert first[2] is first[3]
    pair = (inner,)
    second = through([pair, pair])
    assert second[0][0] is second[1][0]
    inner.append(inner)
    third = through(inner)
    assert third[0] is third


def test_subclasses_are_pickled() -> None:
    for value in (
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        signal.SIGINT,
        {1, 2},
        frozenset((3,)),
        2j,
    ):
        assert same(through(value), value)
        assert same(through([value]), [value])


def test_deep_and_wide_values() -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert through(deep) == deep
    rows = [{"id": number, "name": str(number), "tags": [number] * 3} for number in range(1000)]
    assert through(rows) == rows
    shared = [{"id": number} for number in range(100)]
    assert through([shared, list(shared)]) == [shared, shared]


# Buffers ----------------------------------------------------------------------------------------------------------


def blocks() -> int:
    gc.collect()
    usage = _core.session_usage()
    assert usage is not None
    return usage["blocks"]


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


class Holder:
    """Gives its bytes as pickle's buffers."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        import pickle

        return Holder, (pickle.PickleBuffer(self.data),)


def test_a_buffer_arrives_writable_aligned_and_gives_its_block_back() -> None:
    before = blocks()
    data = bytearray(os.urandom(BIG))
    first, second = through([Holder(data), Holder(data[:5000])])
    assert bytes(first.data) == data
    assert bytes(second.data) == data[:5000]
    assert address(first.data) % 64 == address(second.data) % 64 == 0
    first.data[0:3] = b"abc"
    assert bytes(second.data[0:3]) == data[:3]
    part = memoryview(second.data)[10:20]
    del first, second
    assert blocks() == before + 1  # one view of one buffer keeps it
    assert bytes(part) == data[10:20]
    del part
    assert blocks() == before


def test_a_read_only_buffer_stays_so() -> None:
    holder = through(Holder(bytes(BIG)))
    assert memoryview(holder.data).readonly


def test_small_buffers_go_inside() -> None:
    before = blocks()
    holder = through(Holder(bytearray(b"abc")))
    assert holder.data == b"abc"
    assert blocks() == before


def test_a_memoryview_arrives_as_one_of_a_copy() -> None:
    data = array.array("i", range(10_000))
    view = through(memoryview(data).cast("B").cast("i", (100, 100)))
    assert view.format == "i"
    assert view.shape == (100, 100)
    view[0, 0] = 7
    assert data[0] == 0
    assert through(memoryview(b"abcdef")[::2]).tobytes() == b"ace"
    assert through(memoryview(b"abc")).tobytes() == b"abc"


@pytest.mark.parametrize(
    "view",
    [
        memoryview(np.arange(5, dtype=">i4")),
        memoryview(np.zeros(3, "c16")),
        memoryview(np.zeros((0, 3))),
        memoryview((ctypes.c_longdouble * 2)()),  # its format is "<g", which struct refuses
    ],
    ids=["of the other byte order", "complex", "empty rows", "long double"],
)
def test_a_memoryview_that_could_not_be_rebuilt_is_refused_by_put(view: Any) -> None:
    with pytest.raises(freethreading.NotPicklableError, match="a memoryview of format"):
        through({"key": view})


def test_ctypes() -> None:
    numbers = (ctypes.c_int * 4)(1, 2, 3, 4)
    rows = ((ctypes.c_double * 2) * 3)((1, 2), (3, 4))
    assert list(through(numbers)) == [1, 2, 3, 4]
    assert type(through(numbers)) is type(numbers)
    assert [list(row) for row in through(rows)] == [[1, 2], [3, 4], [0, 0]]
    view = through(memoryview(numbers))  # its format is "<i"
    assert view.tolist() == [1, 2, 3, 4]


def test_an_array_of_the_standard_library() -> None:
    data = array.array("d", range(10_000))
    assert through(data) == data


def test_numpy_arrays_of_every_kind() -> None:
    numbers = np.arange(60_000, dtype="f8")
    record = np.zeros(5_000, [("id", "i4"), ("name", "S8")])
    record["id"] = range(5_000)
    for original in (
        numbers,
        numbers.reshape(300, 200).T,
        numbers[::3],
        numbers[::-1],
        numbers.reshape(3, 100, 200)[1],
        numbers > 7,
        numbers.astype("c16"),
        numbers.astype("datetime64[s]"),
        numbers.astype("U"),
        numbers.astype(object),
        record,
        np.zeros((0, 5)),
        np.array(3.5),
    ):
        array_ = through(original)
        assert (array_.dtype, array_.shape, array_.flags.writeable) == (original.dtype, original.shape, True)
        assert np.array_equal(array_, original)
    frozen = numbers.copy()
    frozen.flags.writeable = False
    assert not through(frozen).flags.writeable


def test_pyarrow_tables_lie_in_the_region() -> None:
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    before = blocks()
    table = pyarrow.table({"x": np.arange(100_000), "s": [f"text {number}" for number in range(100_000)]})
    arrived = through(table)
    assert arrived.equals(table)
    assert blocks() > before
    del arrived
    assert blocks() == before


def test_shared_objects_and_buffers_in_one_item() -> None:
    lock = freethreading.Lock(shared=True)
    again, holder = through((lock, Holder(bytearray(BIG))))
    with lock:
        assert again.locked()
    assert len(holder.data) == BIG


def test_an_item_that_cannot_be_rebuilt_costs_only_itself() -> None:
    queue: Any = freethreading.SimpleQueue(shared=True)
    queue.put(0)
    queue.get()
    before = blocks()
    queue.put([Holder(bytearray(BIG)), FailsToLoad()])
    queue.put(1)
    with pytest.raises(ZeroDivisionError):
        queue.get()
    assert queue.get() == 1
    assert blocks() == before


class FailsToLoad:
    def __reduce__(self) -> Any:
        return divmod, (1, 0)


def test_a_forked_child_goes_on_reading_what_its_parent_has_dropped() -> None:
    queue: Any = freethreading.SimpleQueue(shared=True)
    holder = through(Holder(bytearray(b"x" * BIG)))
    ready, done = freethreading.Event(shared=True), freethreading.Event(shared=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ready.wait()
            code = 0 if bytes(holder.data) == b"x" * BIG else 2
            done.wait()
        finally:
            os._exit(code)
    del holder
    for _ in range(3):  # would be written where the child reads
        queue.put(Holder(bytearray(b"y" * BIG)))
    ready.set()
    while not queue.empty():
        queue.get()
    done.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    _core.sweep_sessions()
    gc.collect()
    usage = _core.session_usage()
    assert usage is not None
    assert usage["block_bytes"] < BIG
