"""The array behind shared_array(): an ndarray over a SharedBuffer that crosses to other workers as a descriptor.

This module imports NumPy: it is imported when first needed.
"""

from __future__ import annotations

import marshal
from typing import Any

import numpy as np

from freethreading import _serialize
from freethreading._core import SharedBuffer, address_of, handle_of, open_handle

_numpy: Any = np  # for what its stubs leave unknown
_Array = np.ndarray[Any, np.dtype[Any]]


class SharedArray(_Array):
    """An array in a SharedBuffer, or a view of one.

    As with numpy.memmap, views are of this class and know the memory; results of ufuncs are plain arrays. What other
    operations make of one in memory of its own (copies, fancy indexing) is of this class, and plain data to everybody.
    """

    # The buffer that this array's elements lie in and the address of its first byte; None: plain data.
    _memory: tuple[SharedBuffer, int] | None = None
    # Lower than any other subclass's, as numpy.memmap's: of two, the result is the other's.
    __array_priority__ = -100.0  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __array_finalize__(self, obj: _Array | None, /) -> None:
        if isinstance(obj, SharedArray) and obj._memory is not None and np.may_share_memory(self, obj):
            self._memory = obj._memory

    def __array_wrap__(  # type: ignore[override]
        self, array: _Array, context: Any = None, return_scalar: bool | None = None, /
    ) -> Any:
        if isinstance(array, SharedArray):
            if array is self or array._memory is not None:
                return array  # it was given as `out`
            array = np.asarray(array)  # before NumPy 2 results are made as instances of the operand's class
        if self._memory is not None and array.base is not None and np.may_share_memory(array, self):
            view: SharedArray = _numpy.asarray(array).view(
                SharedArray
            )  # squeeze() is no ufunc, and comes by here with a view
            view._memory = self._memory
            return view
        if return_scalar is None:  # before NumPy 2 nobody says
            return_scalar = array.ndim == 0
        return array[()] if return_scalar else array

    def __reduce_ex__(self, protocol: Any, /) -> tuple[Any, ...]:  # type: ignore[override]
        if self._memory is None:
            reduced: Any = np.asarray(self).__reduce_ex__(protocol)
            return reduced  # type: ignore[no-any-return]
        buffer, place = _place_of(self, self._memory)
        return rebuild, (buffer, *place)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(2)

    def __copy__(self) -> _Array:
        return np.array(self)

    def __deepcopy__(self, memo: dict[int, Any] | None, /) -> _Array:
        return np.array(self)

    def __repr__(self) -> str:
        return super().__repr__() if self._memory is not None else repr(np.asarray(self))


def over(
    buffer: SharedBuffer,
    dtype: np.dtype[Any] | str,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
) -> SharedArray:
    """The array at that place of the buffer; a ValueError if it would reach outside of it."""
    data = np.frombuffer(
        memoryview(buffer), np.uint8
    )  # keeps the memoryview: nobody releases the buffer meanwhile
    array: SharedArray = _numpy.ndarray.__new__(SharedArray, shape, dtype, data, offset, strides)
    array._memory = buffer, _address_of(data)
    return array


Place = tuple["np.dtype[Any] | str", tuple[int, ...], tuple[int, ...], int, bool]


def _place_of(array: SharedArray, memory: tuple[SharedBuffer, int]) -> tuple[SharedBuffer, Place]:
    """The buffer, and the other arguments of rebuild()."""
    buffer, address = memory
    # A built-in type's name is a tenth of what its pickle costs.
    dtype: Any = array.dtype
    if dtype.isbuiltin == 1:
        dtype = dtype.str
    return buffer, (
        dtype,
        array.shape,
        array.strides,
        _address_of(array) - address,
        array.flags.writeable,
    )


def describe(array: SharedArray) -> tuple[SharedBuffer, bytes] | None:
    """What an array is on its way when it is all of an item: no pickle, which would take longer than the rest of the way."""
    if array._memory is None or array.dtype.isbuiltin != 1:
        return None
    buffer, place = _place_of(array, array._memory)
    description: Any = handle_of(buffer), place
    return buffer, marshal.dumps(description)


def from_description(data: bytes | memoryview) -> SharedArray:
    handle, place = marshal.loads(data)
    return rebuild(open_handle(handle), *place)


_serialize.describers[SharedArray] = describe


def rebuild(
    buffer: SharedBuffer,
    dtype: np.dtype[Any] | str,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
    writeable: bool,
) -> SharedArray:
    """Unpickles a SharedArray."""
    array = over(buffer, dtype, shape, strides, offset)
    if not writeable:
        array.flags.writeable = False
    return array


def element_type(dtype: Any) -> np.dtype[Any]:
    """The dtype of an array that is made with this one; a TypeError for Python objects."""
    element: np.dtype[Any] = np.dtype(dtype)
    if element.hasobject:
        raise TypeError(
            f"a shared_array cannot have elements of dtype {element}: they would be references to objects of this process"
        )
    if element.itemsize == 0 and element.kind in "SU":
        element = np.empty(0, element).dtype  # as numpy.zeros: of length 1
    return element


def _address_of(array: _Array) -> int:
    try:
        return address_of(array)
    except ValueError:  # of a dtype that has no format in the buffer protocol: a time
        address: int = array.__array_interface__["data"][0]
        return address
