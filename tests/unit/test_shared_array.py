"""shared_array: which arrays share its memory, which are plain, and how both are pickled."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from freethreading import HandleGoneError, Queue, WorkerPool, shared_array
from freethreading._ndarray import SharedArray
from support import processes


def crossed(array: Any) -> Any:
    return pickle.loads(pickle.dumps(array))


def is_shared(array: Any) -> bool:
    return isinstance(array, SharedArray) and array._memory is not None


def counted() -> Any:
    made = shared_array((3, 4), shared=True)
    made[...] = np.arange(12).reshape(3, 4)
    return made


# --- what it is -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", [(), 0, 5, (2, 3), [4, 0, 2], (2, 1, 3), np.int64(2), range(1, 4)])
@pytest.mark.parametrize("dtype", [float, "i2", np.complex64, bool, "S5", "U3", "M8[ns]", ">u4", None, "V3"])
def test_it_is_what_numpy_zeros_is(shape: Any, dtype: Any, shared: bool) -> None:
    array, zeros = shared_array(shape, dtype, shared=shared), np.zeros(shape, dtype)
    assert (array.shape, array.dtype) == (zeros.shape, zeros.dtype)
    assert array.strides == zeros.strides or not array.size
    assert np.array_equal(np.asarray(array), zeros)
    assert array.flags.c_contiguous and array.flags.aligned and array.flags.writeable
    assert not array.flags.owndata


def test_defaults(backend: str) -> None:
    array = shared_array(2)
    assert array.dtype == np.float64
    if backend == "threading":
        with pytest.raises(TypeError, match="made for threads.*shared=True"):
            pickle.dumps(array)
    else:
        assert is_shared(crossed(array))


def test_structured_and_nested_dtypes() -> None:
    array = shared_array(3, [("x", "i4"), ("y", "f8", (2,))], shared=True)
    crossed(array[1:]["y"])[:, 1] = 2.5
    crossed(array)["x"][0] = 7
    assert array["y"].tolist() == [[0, 0], [0, 2.5], [0, 2.5]]
    assert array["x"].tolist() == [7, 0, 0]
    assert crossed(array).dtype == array.dtype
    nested = shared_array(2, np.dtype((np.int16, (3,))), shared=True)
    assert nested.shape == crossed(nested).shape == (2, 3)
    assert shared_array(2, "U").dtype == np.zeros(2, "U").dtype


@pytest.mark.parametrize("dtype", [object, "O", [("a", int), ("b", object)]])
def test_python_objects_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="cannot have elements of dtype"):
        shared_array(2, dtype)


def test_shapes_that_are_none() -> None:
    for negative in (-1, (2, -1)):
        with pytest.raises(ValueError, match="negative"):
            shared_array(negative)
    for wrong in (1.5, (1, 2.0), "2"):
        with pytest.raises(TypeError):
            shared_array(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        shared_array(2, "no such type")
    with pytest.raises(MemoryError, match="SharedBuffer of"):
        shared_array((1 << 40, 1 << 40))


# --- views and copies -----------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda a: a,
    "row": lambda a: a[1],
    "rows": lambda a: a[1:],
    "column": lambda a: a[:, 2],
    "part": lambda a: a[1:, 1:3],
    "steps": lambda a: a[::2, ::3],
    "backwards": lambda a: a[::-1, ::-2],
    "transposed": lambda a: a.T,
    "transposed part": lambda a: a.T[1:, ::-1],
    "reshaped": lambda a: a.reshape(2, 6),
    "flat": lambda a: a.ravel(),
    "with an axis": lambda a: a[:, None, 1],
    "squeezed": lambda a: np.squeeze(a[:1]),
    "0-d": lambda a: a[1, 2, ...],
    "diagonal": lambda a: np.lib.stride_tricks.as_strided(a, (3,), (40,), subok=True),
    "repeated": lambda a: np.lib.stride_tricks.as_strided(a, (2, 4), (0, 8), subok=True),
    "other type": lambda a: a.view(np.int64),
    "real part": lambda a: a.view(np.complex128).real,
    "bytes": lambda a: a.view(np.uint8)[1:, 3:9],
    "out": lambda a: np.add(a, 1, out=a),
    "in place": lambda a: a.__iadd__(1),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_crosses_as_the_same_memory(view: Callable[[Any], Any]) -> None:
    array = counted()
    before = view(array)
    assert is_shared(before)
    after = crossed(before)
    assert is_shared(after)
    assert (after.shape, after.dtype, after.strides) == (before.shape, before.dtype, before.strides)
    assert np.array_equal(after, before)
    after[...] = 1
    assert np.array_equal(after, before)
    before[...] = 0
    assert not after.any()
    assert len(pickle.dumps(before)) < 400


COPIES: dict[str, Callable[[Any], Any]] = {
    "sum": lambda a: a + 1,
    "ufunc": np.sqrt,
    "two results": lambda a: divmod(a, 5)[1],
    "comparison": lambda a: a > 3,
    "along an axis": lambda a: a.sum(axis=0),
    "kept axes": lambda a: a.mean(keepdims=True),
    "product": lambda a: a @ a.T,
    "copy": lambda a: a.copy(),
    "np.copy": np.copy,
    "np.array": np.array,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "other type": lambda a: a.astype(int),
    "chosen rows": lambda a: a[[0, 2]],
    "masked": lambda a: a[a > 3],
    "taken": lambda a: a.take([1, 2]),
    "sorted": np.sort,
    "flattened": lambda a: a.flatten(),
    "reshaped copy": lambda a: a.T.reshape(2, 6),
    "joined": lambda a: np.concatenate([a, a]),
    "where": lambda a: np.where(a > 3, a, 0),
    "part of a copy": lambda a: a.copy()[1:].T,
    "empty part": lambda a: a[:0],
}


@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_results_and_copies_are_plain_data(make: Callable[[Any], Any]) -> None:
    array = counted()
    made, expected = make(array), make(np.asarray(array).copy())
    assert not is_shared(made)
    assert np.array_equal(np.asarray(made), expected)
    assert repr(made) == repr(expected)
    after = crossed(made)
    assert type(after) is np.ndarray
    assert np.array_equal(after, expected)
    if made.size:
        after[...] = 1
        assert np.array_equal(np.asarray(made), expected)


REDUCTIONS = [np.sum, np.mean, np.std, np.max, np.argmax, np.any, np.median, np.linalg.norm, np.ptp, np.trace]


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_reductions_give_scalars(reduce: Callable[[Any], Any]) -> None:
    array = counted()
    expected = reduce(np.asarray(array))
    assert type(reduce(array)) is type(expected)
    assert reduce(array) == expected


def test_0_d_arrays() -> None:
    array = shared_array((), shared=True)
    crossed(array)[()] = 3
    assert float(array) == 3
    assert type(array + 1) is type(array[()]) is type(array.sum()) is np.float64
    assert np.add(array, 1, out=array) is array
    assert array == 4


def test_zero_sizes() -> None:
    array = shared_array((0, 3), np.int8, shared=True)
    again = crossed(array)
    assert (again.shape, again.dtype) == ((0, 3), np.int8)
    assert array.sum() == 0


def test_a_read_only_view_stays_one() -> None:
    array = counted()
    view = array[1:]
    view.flags.writeable = False
    after = crossed(view)
    with pytest.raises(ValueError, match="read-only"):
        after[0, 0] = 1
    assert crossed(array).flags.writeable


def test_a_plain_view_of_it_is_sent_as_a_copy() -> None:
    array = counted()
    plain = np.asarray(array)
    plain[0, 0] = 50
    assert array[0, 0] == 50
    after = crossed(plain)
    after[0, 0] = 0
    assert array[0, 0] == 50


def test_copies_of_private_ones() -> None:
    array = shared_array(3, shared=False)
    for duplicate in (copy.copy(array), copy.deepcopy([array])[0], crossed(array + 1), crossed(array.copy())):
        assert type(duplicate) is np.ndarray
        duplicate[0] = 9
    assert array[0] == 0


def test_its_text() -> None:
    array = shared_array(2, int, shared=True)
    assert repr(array) == "SharedArray([0, 0])"
    assert str(array) == "[0 0]"


def test_saved_and_loaded() -> None:
    array = counted()
    file = io.BytesIO()
    np.save(file, array[:, 1:], allow_pickle=False)
    file.seek(0)
    assert np.array_equal(np.load(file), array[:, 1:])
    file = io.BytesIO()
    np.savez(file, one=array)
    file.seek(0)
    with np.load(file) as loaded:
        assert np.array_equal(loaded["one"], array)


def test_other_subclasses_have_precedence() -> None:
    array = counted()
    masked: Any = np.ma.masked_greater(array, 3) + array
    assert isinstance(masked, np.ma.MaskedArray)
    assert masked.count() == 4


# --- what it travels in ---------------------------------------------------------------------------------------------------


def test_views_in_one_message_share_a_buffer() -> None:
    array = counted()
    items: Queue[Any] = Queue(shared=True)
    items.put({"all": array, "row": array[1]})
    got = items.get(timeout=20)
    got["row"][0] = 70
    assert got["all"][1, 0] == array[1, 0] == 70
    assert got["all"]._memory[0] is got["row"]._memory[0]


def test_it_lives_as_long_as_an_array_or_a_message_refers_to_it() -> None:
    gc.collect()
    before = processes.region_objects()
    items: Queue[Any] = Queue(shared=True)
    array = shared_array(100, shared=True)
    array[:] = 3
    data = pickle.dumps(array)
    items.put(array[50:])
    del array
    got = items.get(timeout=20)[1:]
    assert got.sum() == 3 * 49
    with pytest.raises(BufferError, match="views"):
        got._memory[0].release()
    del got
    with pytest.raises(HandleGoneError):
        pickle.loads(data)
    del items
    assert processes.region_objects() == before


def test_strict_threads_take_a_private_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "threading")
    monkeypatch.setenv("FREETHREADING_STRICT", "1")
    array = shared_array(3)
    with WorkerPool(workers=1) as pool:
        assert pool.apply(len, (array[1:],)) == 2
    pool.join()


# --- without NumPy --------------------------------------------------------------------------------------------------------

WITHOUT_NUMPY = """
import sys
sys.modules["numpy"] = None  # what import numpy then says is what it says where it is not installed
import freethreading
from freethreading import *
try:
    shared_array(3)
except ImportError as error:
    print(error)
"""


def test_without_numpy_it_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMPY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "shared_array() needs NumPy: pip install numpy"


def test_its_name_does_not_import_numpy() -> None:
    code = "import sys, freethreading; freethreading.shared_array; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
