"""A pickler that sends by value what pickle cannot name: lambdas, closures, local classes, definitions of ``__main__``.

It is cloudpickle's, with these differences:

- A function keeps the namespace it was made in: it is rebuilt over the ``__dict__`` of its module, or of the
  receiver's ``__main__``. cloudpickle copies the globals that a function names into a dictionary of that function.
- What ``__main__`` names goes by reference or by value as a MainView says; which globals of ``__main__`` the functions
  sent by value use is reported to it, so that they can follow.
- Closures that share a variable go on sharing it.
- A file is refused; cloudpickle would send a copy of its contents.
- A memoryview arrives as one of a copy.

This module imports cloudpickle: it is imported when first needed.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import importlib
import io
import operator
import struct
import sys
import types
from contextvars import ContextVar
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Protocol

from cloudpickle import cloudpickle as _cloudpickle

from freethreading import _contexts
from freethreading._contexts import MAIN_NAMES
from freethreading._loaded import loaded, look_up
from freethreading._reducers import Outside, registered
from freethreading._unsent import import_or_explain

if TYPE_CHECKING:
    from pickle import Pickler as _Pickler  # cloudpickle is not typed
else:
    _Pickler = _cloudpickle.Pickler

cloudpickle: Any = _cloudpickle

PROTOCOL = 5

# What cloudpickle adds to copyreg's reducers. A copy: its table is a ChainMap, which takes longer to read than most objects.
_CLOUDPICKLES: dict[type, Any] = {
    kind: reducer
    for kind, reducer in cloudpickle.Pickler.dispatch_table.items()
    if copyreg.dispatch_table.get(kind) is not reducer
}
# What a layout may begin with where it means the same as without.
_NATIVE_ORDERS = ("@", "=", "<" if sys.byteorder == "little" else ">")
Reduced = Any
_LruCache: Any = functools._lru_cache_wrapper
_GLOBAL_OPS = frozenset(
    ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
)
_SLOTS = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__")


class MainView(Protocol):
    """What a pickler asks about ``__main__``."""

    namespace: dict[str, Any]

    def by_reference(self, root: str) -> bool:
        """Whether the receiver will find what the global ``root`` of ``__main__`` is, under that name."""
        ...

    def uses(self, names: tuple[str, ...]) -> None:
        """A function sent by value looks these names up in ``__main__`` when it runs."""
        ...


class References:
    """The receiver has all of this ``__main__``, or nothing of it."""

    def __init__(self, by_reference: bool = True) -> None:
        self.namespace: dict[str, Any] = sys.modules["__main__"].__dict__
        self._by_reference = by_reference

    def by_reference(self, root: str) -> bool:  # noqa: ARG002 - all of them alike
        return self._by_reference

    def uses(self, names: tuple[str, ...]) -> None:
        pass


@functools.lru_cache(maxsize=4096)
def global_names(code: types.CodeType) -> tuple[str, ...]:
    """The names that ``code`` and the code nested in it look up outside of functions, in order of appearance."""
    names: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_OPS:
            names[instruction.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(global_names(constant)))
    return tuple(names)


def _is_its_modules(obj: Any) -> bool:
    # Whether a module has the function or class under its name. What cloudpickle finds as well, but by dict.get().
    name = obj.__module__
    if not isinstance(name, str) or name in MAIN_NAMES or cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = loaded(name)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


def main_root(obj: object, namespace: dict[str, Any]) -> str | None:
    """The global of ``__main__`` under which ``obj`` is found by its qualified name; None: it is not."""
    if getattr(obj, "__module__", None) not in MAIN_NAMES:
        return None
    qualified = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    if not isinstance(qualified, str):
        return None
    root, *rest = qualified.split(".")
    found: Any = look_up(namespace, root)
    for part in rest:
        found = getattr(found, part, None)
    return root if found is obj else None


def _reduce_view(view: Any) -> Reduced:
    data: Any = view if view.c_contiguous else memoryview(bytearray(view.tobytes()))
    layout = view.format
    reason = None
    try:
        if layout[:1] in _NATIVE_ORDERS and struct.calcsize(layout) == struct.calcsize(layout[1:]):
            layout = layout[1:]
        _make_view(PickleBuffer(data).raw(), layout, view.shape)
    except (TypeError, ValueError, struct.error) as error:
        reason = str(error)  # not the error, whose traceback has views of the view
    if reason is not None:
        raise TypeError(
            f"cannot pickle a memoryview of format {view.format!r} and shape {view.shape}, which cannot be made anew"
            f" ({reason}); send what it is a view of, or its bytes"
        )
    return _make_view, (PickleBuffer(data), layout, view.shape)


def _make_view(data: Any, layout: str, shape: tuple[int, ...]) -> memoryview:
    view = memoryview(data)
    return view if (view.format, view.shape) == (layout, shape) else view.cast("B").cast(layout, shape)  # type: ignore[call-overload]


class ByValuePickler(_Pickler):
    """One dump, or several with one memo."""

    def __init__(self, file: io.BytesIO, view: MainView, outside: Outside | None = None) -> None:
        # The pickler reads it when it is initialised.
        self.dispatch_table = {**registered(), **_CLOUDPICKLES}
        super().__init__(file, protocol=PROTOCOL, buffer_callback=outside)
        self._view = view
        self._closure_cells: set[int] = set()
        self._ordinary: set[type] = set()  # types that need nothing special
        self.modules: dict[str, None] = {}  # that the receiver imports for what goes by name, in order

    def dump(self, obj: object) -> None:
        try:
            super().dump(obj)
        except BaseException:  # as in _reducers
            self.clear_memo()
            raise

    def reducer_override(self, obj: object) -> Reduced:
        kind = type(obj)
        if kind in self._ordinary:
            return NotImplemented
        if isinstance(obj, types.FunctionType):
            return self._reduce_function(obj)
        if kind is types.BuiltinFunctionType:
            self.modules[obj.__module__ or "builtins"] = None
            return NotImplemented
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is _LruCache:
            return self._reduce_lru_cache(obj)
        if kind is memoryview:
            return _reduce_view(obj)
        if kind is functools.cached_property:
            return self._reduce_cached_property(obj)
        if isinstance(obj, types.CellType):
            return self._reduce_cell(obj)
        if isinstance(obj, types.ModuleType):
            return self._reduce_module(obj)
        if kind is ContextVar:
            return self._reduce_context_var(obj)
        if issubclass(kind, io.IOBase) and not issubclass(kind, io.BytesIO | io.StringIO):
            for name in ("stdout", "stderr"):
                if obj is getattr(sys, name):
                    return getattr, (sys, name)  # the receiver's own
            if kind is io.TextIOWrapper:
                raise TypeError("cannot pickle '_io.TextIOWrapper' object")
        if (
            kind.__module__ in MAIN_NAMES
            and kind.__reduce__ is not object.__reduce__
            and kind not in self.dispatch_table
        ):
            return self._reduce_named_instance(obj)
        self._ordinary.add(kind)
        return NotImplemented

    def _goes_by_name(self, obj: object) -> bool | None:
        """True: by the name it has in __main__. False: it is __main__'s and goes by value. None: not __main__'s."""
        root = main_root(obj, self._view.namespace)
        return None if root is None else self._view.by_reference(root)

    def _reduce_function(self, func: types.FunctionType) -> Reduced:
        named = self._goes_by_name(func)
        if named:
            return NotImplemented
        if named is None and (_is_its_modules(func) or cloudpickle._should_pickle_by_reference(func)):
            self.modules[func.__module__] = None
            return NotImplemented
        if _is_singledispatch(func):
            registry: Any = func.registry  # type: ignore[attr-defined]
            others = [(kind, f) for kind, f in registry.items() if kind is not object]
            return _make_singledispatch, (registry[object], others)
        namespace = func.__globals__
        if namespace is self._view.namespace:
            module = "__main__"
            self._view.uses(global_names(func.__code__))
        else:
            module = look_up(namespace, "__name__") or ""
            owner = loaded(module)
            if owner is None or owner.__dict__ is not namespace or owner.__spec__ is None:
                dynamic: Any = self
                return dynamic._dynamic_function_reduce(func)
        cells = func.__closure__ or ()
        self._closure_cells.update(map(id, cells))
        state = _function_state(func, cells)
        return _make_function, (func.__code__, module, cells or None), state, None, None, _set_function_state

    def _reduce_class(self, cls: Any) -> Reduced:
        named = self._goes_by_name(cls)
        if named:
            return NotImplemented
        if named is None:
            if _is_its_modules(cls):
                self.modules[cls.__module__] = None
                return NotImplemented
            if type(cls).__name__ == "PyCArrayType" and type(cls).__module__ == "_ctypes":
                return operator.mul, (cls._type_, cls._length_)  # ctypes makes these, and no module has them
            reduced = cloudpickle._class_reduce(cls)
            if reduced is NotImplemented or len(reduced) == 2:
                return reduced
        else:
            reduced = cloudpickle._dynamic_class_reduce(cls)
        # Without it a nested class would be looked for at the top level when an instance comes back.
        reduced[2][0]["__qualname__"] = cls.__qualname__
        return reduced

    def _reduce_lru_cache(self, cached: Any) -> Reduced:
        if self._goes_by_name(cached) or getattr(cached, "__module__", None) not in MAIN_NAMES:
            return NotImplemented
        parameters = cached.cache_parameters()
        attributes = {
            k: v for k, v in cached.__dict__.items() if k not in ("__wrapped__", "cache_parameters")
        }
        return _make_lru_cache, (cached.__wrapped__, parameters["maxsize"], parameters["typed"]), attributes

    def _reduce_cached_property(self, prop: Any) -> Reduced:
        attributes = {name: value for name, value in prop.__dict__.items() if name not in ("func", "lock")}
        return functools.cached_property, (prop.func,), attributes  # before 3.12 it has a lock

    def _reduce_cell(self, cell: types.CellType) -> Reduced:
        if id(cell) in self._closure_cells:
            return types.CellType, ()  # the functions that close over it bring its contents
        try:
            contents = cell.cell_contents
        except ValueError:
            return types.CellType, ()
        return types.CellType, (), (contents,), None, None, _fill_cell

    def _reduce_module(self, module: types.ModuleType) -> Reduced:
        if loaded(module.__name__) is module or module is loaded("__main__"):
            self.modules[module.__name__] = None
            return import_or_explain, (module.__name__,)
        return NotImplemented

    def _reduce_context_var(self, variable: Any) -> Reduced:
        place = _contexts.place_of(variable)
        if place is None:
            raise TypeError(
                f"cannot pickle {variable!r}: a context variable is known to another process as a module's attribute, "
                f"and it is none"
            )
        module, name = place
        if module not in MAIN_NAMES or self._view.by_reference(name):
            return _contexts.find_variable, place
        return _contexts.make_variable, (variable.name, *_contexts.default_of(variable))

    def _reduce_named_instance(self, obj: Any) -> Reduced:
        # Its __reduce__ may give the name of a global, which then has to be there or comes with this.
        reduced = obj.__reduce_ex__(PROTOCOL)
        if isinstance(reduced, str) and not self._view.by_reference(reduced.split(".")[0]):
            return copyreg.__newobj__, (type(obj),), getattr(obj, "__dict__", None)  # type: ignore[attr-defined]
        return reduced


def _is_singledispatch(func: types.FunctionType) -> bool:
    return isinstance(getattr(func, "registry", None), types.MappingProxyType) and (
        func.__globals__ is functools.__dict__
    )


def _make_singledispatch(func: Any, others: list[tuple[type, Any]]) -> Any:
    dispatcher: Any = functools.singledispatch(func)
    for kind, implementation in others:
        dispatcher.register(kind, implementation)
    return dispatcher


def _make_lru_cache(func: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize=maxsize, typed=typed)(func)


def _make_function(
    code: types.CodeType, module: str, cells: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    owner = sys.modules["__main__"] if module == "__main__" else importlib.import_module(module)
    return types.FunctionType(code, owner.__dict__, code.co_name, None, cells)


def _annotations(func: types.FunctionType) -> Any:
    try:
        return func.__annotations__
    except Exception:
        return {}  # 3.14: they are evaluated now, and name what is not there


def _function_state(func: types.FunctionType, cells: tuple[types.CellType, ...]) -> Any:
    slots: dict[str, Any] = {name: getattr(func, name) for name in _SLOTS}
    slots["__annotations__"] = _annotations(func)
    type_parameters = getattr(func, "__type_params__", ())
    if type_parameters:
        slots["__type_params__"] = type_parameters
    contents: list[tuple[types.CellType, Any]] = []
    for cell in cells:
        try:
            contents.append((cell, cell.cell_contents))
        except ValueError:  # not bound yet
            continue
    used = [func.__globals__[n] for n in global_names(func.__code__) if n in func.__globals__]
    submodules: list[Any] = cloudpickle._find_imported_submodules(func.__code__, used)
    return func.__dict__, slots, contents, submodules


def _set_function_state(func: types.FunctionType, state: Any) -> None:
    attributes, slots, contents, _submodules = state
    func.__dict__.update(attributes)
    for name, value in slots.items():
        setattr(func, name, value)
    for cell, value in contents:
        cell.cell_contents = value


def _fill_cell(cell: types.CellType, state: tuple[Any]) -> None:
    cell.cell_contents = state[0]
