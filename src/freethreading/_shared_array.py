"""shared_array(): importable without NumPy, which its first call imports."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, SupportsIndex

from freethreading._core import SharedBuffer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def shared_array(
    shape: SupportsIndex | Iterable[SupportsIndex],
    dtype: npt.DTypeLike = float,
    *,
    shared: bool | None = None,
) -> np.ndarray[Any, np.dtype[Any]]:
    """Makes a NumPy array of zeros whose memory the workers share.

    Sent to another worker, the array and every view of it (slices, transposes, reshapes that copy nothing) arrive as the
    same memory, whatever its size: what one writes the others see. Results of arithmetic and copies are plain arrays.
    Nothing guards the elements: use a Lock, or give each worker its part. The memory lives as long as an array or a
    message refers to it.

    Args:
        shape: Length of each dimension, or one length.
        dtype: What ``numpy.dtype`` takes; its elements may not be Python objects.
        shared: True puts it into memory that processes share, False into this process's own; None does what the back end
            (``get_backend()``) needs.

    Raises:
        TypeError: The elements would be Python objects, or hold some.
        ValueError: A length is negative.
        MemoryError: There is not as much memory.
        ImportError: NumPy is not installed.

    Example:
        >>> from freethreading import Worker, shared_array
        >>> def fill(part):
        ...     part[:] = 1
        >>> array = shared_array((2, 3))
        >>> worker = Worker(target=fill, args=(array[0],))
        >>> worker.start(); worker.join()
        >>> array.sum()
        3.0
    """
    try:
        from freethreading import _ndarray
    except ImportError as error:
        raise ImportError("shared_array() needs NumPy: pip install numpy", name=error.name) from error
    lengths = tuple(map(operator.index, shape if isinstance(shape, Iterable) else (shape,)))
    if any(length < 0 for length in lengths):
        raise ValueError(f"a dimension cannot be negative: {lengths}")
    element = _ndarray.element_type(dtype)
    nbytes = element.itemsize
    for length in lengths:
        nbytes *= length
    return _ndarray.over(SharedBuffer(nbytes, shared=shared), element, lengths)
