"""Random generators that modules make without a seed while the zygote imports them: each worker gives them a new one.

Otherwise all workers, which are forks of it, would draw the same numbers. One that was given a seed, or a state, keeps it:
it draws in each worker what it would draw if each had imported the module.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from collections.abc import Callable, Generator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from freethreading._loaded import loaded

if TYPE_CHECKING:
    import random

# Of the random module's class, those that seeded themselves, by their ids. Its own, behind random.random(), does so in each
# fork.
_unseeded: dict[int, weakref.ref[random.Random]] = {}
# NumPy's, likewise, and the entropy that was drawn for that, or for whatever else.
_bit_generators: list[Any] = []
_drawn: set[int] = set()
_is_watching = False
# So many blocks of numbers are looked at of a Mersenne Twister that was drawn from, to find out whether it was seeded since.
_BLOCKS = 200
_BLOCK = 624


@contextlib.contextmanager
def watched() -> Generator[None]:
    """Notes those that are made meanwhile."""
    global _is_watching
    restore: list[Callable[[], None]] = []
    finder = _Finder(restore)
    sys.meta_path.insert(0, finder)
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            restore.append(patch(sys.modules[name]))
    _is_watching = True
    try:
        yield
    finally:
        _is_watching = False
        with contextlib.suppress(ValueError):  # somebody has replaced the list's items
            sys.meta_path.remove(finder)
        for each in restore:
            each()
        _find_bit_generators()


def renew() -> None:
    """In a worker: gives them seeds of their own."""
    for reference in list(_unseeded.values()):
        generator = reference()
        if generator is not None:
            loaded("random").Random.seed(generator)
    for each in _bit_generators:
        each.state = {**_base_of(each)().state, "bit_generator": type(each).__name__}


def _watch_random(module: Any) -> Callable[[], None]:
    base = module.Random
    seed, setstate = base.seed, base.setstate

    def watching_seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        seed(self, a, version)
        if a is None:
            key = id(self)
            _unseeded[key] = weakref.ref(self, lambda _: _unseeded.pop(key, None))
        else:
            _unseeded.pop(id(self), None)

    def watching_setstate(self: random.Random, state: Any) -> None:
        setstate(self, state)
        _unseeded.pop(id(self), None)

    base.seed, base.setstate = watching_seed, watching_setstate

    def restore() -> None:
        if base.seed is watching_seed:
            base.seed = seed
        if base.setstate is watching_setstate:
            base.setstate = setstate

    return restore


def _watch_secrets(module: Any) -> Callable[[], None]:
    # NumPy takes this function from there when it is imported, and keeps it.
    original = module.randbits

    def randbits(k: int) -> int:
        drawn: int = original(k)
        if _is_watching:
            _drawn.add(drawn)
        return drawn

    module.randbits = randbits

    def restore() -> None:
        if module.randbits is randbits:
            module.randbits = original

    return restore


_PATCHES: dict[str, Callable[[Any], Callable[[], None]]] = {
    "random": _watch_random,
    "secrets": _watch_secrets,
}


def _find_bit_generators() -> None:
    numpy = loaded("numpy.random")
    if numpy is None or not _drawn:
        return
    known = {id(each) for each in _bit_generators}
    for each in gc.get_objects():
        if issubclass(type(each), numpy.BitGenerator) and id(each) not in known and _is_unseeded(numpy, each):
            _bit_generators.append(each)
    _drawn.clear()


def _base_of(generator: Any) -> Any:
    # NumPy's own class of it.
    return next(base for base in type(generator).__mro__ if base.__module__.startswith("numpy."))


def _is_unseeded(numpy: Any, generator: Any) -> bool:
    # Whether its numbers come of entropy that was drawn, and it was given no other state since.
    sequence = generator.seed_seq
    if sequence is not None:
        entropy = getattr(sequence, "entropy", None)
        sources = [sequence] if isinstance(entropy, int) and entropy in _drawn else []
    elif type(generator) is numpy.MT19937:
        # It was seeded in the old way: np.random.seed(), with or without a number.
        sources = [numpy.SeedSequence(entropy) for entropy in _drawn]
    else:
        sources = []
    return any(_comes_of(generator, source) for source in sources)


def _comes_of(generator: Any, source: Any) -> bool:
    fresh = _base_of(generator)(source)
    now, then = generator.state["state"], fresh.state["state"]
    for constant in ("inc", "key"):  # of PCG64 and Philox: no number that is drawn changes it
        if constant in now and "pos" not in now:
            return bool(
                (now[constant] == then[constant]).all() if constant == "key" else now["inc"] == then["inc"]
            )
    if "pos" not in now:  # SFC64
        return bool((now["state"] == then["state"]).all())
    for _ in range(_BLOCKS):  # MT19937
        if (now["key"] == fresh.state["state"]["key"]).all():
            return True
        fresh.random_raw(_BLOCK, output=False)
    return False


class _Finder:
    """Finds the modules that are to be patched, as the finders behind it do, and has them patched once they are imported."""

    def __init__(self, restore: list[Callable[[], None]]) -> None:
        self._restore = restore
        self._is_asked = False  # by a finder that it has asked itself

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _PATCHES or self._is_asked:
            return None
        self._is_asked = True
        try:
            for finder in sys.meta_path:
                find: Any = getattr(finder, "find_spec", None)
                spec = find(name, path, target) if finder is not self and find is not None else None
                if spec is not None and spec.loader is not None:
                    patching: Any = _Loader(spec, spec.loader, self._restore)
                    spec.loader = patching
                    found: ModuleSpec = spec
                    return found
            return None
        finally:
            self._is_asked = False


class _Loader:
    def __init__(self, spec: ModuleSpec, loader: Any, restore: list[Callable[[], None]]) -> None:
        self._spec = spec
        self._loader = loader
        self._restore = restore

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        self._spec.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if _is_watching:
            self._restore.append(_PATCHES[module.__name__](module))
