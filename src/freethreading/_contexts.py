"""Context variables of a caller, in the calls that it gives to workers: docs/design/contexts.md."""

from __future__ import annotations

import importlib
import pickle
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context, ContextVar
from typing import Any, TypeVar, cast

from freethreading import _main_module, _serialize
from freethreading._loaded import loaded, look_up

T = TypeVar("T")
Variable = ContextVar[Any]
# How a variable travels: the name of a module and of its attribute; or the pickle of a variable of the main program.
Reference = tuple[str, str] | bytes

MAIN_NAMES = ("__main__", "__mp_main__")
_MISSING: Any = object()
_ATOMS = frozenset((int, float, bool, str, bytes, type(None)))


class Home:
    """A worker's side: the context that its pool was made in, and what the initializer has set."""

    def __init__(self, made_in: Context) -> None:
        self._made_in = made_in
        self._set: tuple[tuple[Variable, Any, Any], ...] = ()
        self._last: tuple[bytes, list[tuple[Reference, Variable]], Context] | None = None

    def initialise(self, function: Callable[..., T], *args: Any) -> T:
        """Runs the initializer: what it sets, later calls see."""
        mine = private_copy(self._made_in)
        decimal_before = _decimal_state(mine)
        try:
            return mine.run(function, *args)
        finally:
            # The variable, the initializer's value, and the one that it had before.
            self._set = tuple(
                (variable, value, self._made_in.get(variable, _MISSING))
                for variable, value in mine.items()
                if self._made_in.get(variable, _MISSING) is not value
                and not (variable is _decimal and _decimal_state(mine) == decimal_before)
            )

    def context_for(self, caller: Context) -> Context:
        """A context for one call of this caller's."""
        mine = caller.copy()
        if self._set:
            mine.run(_set_where_unchanged, self._set)
        _own_decimal(mine)
        return mine

    @property
    def made_in(self) -> Context:
        """The context that the pool was made in."""
        return self._made_in

    def preparation(self, caller: Context | None) -> Callable[[Context], Context] | None:
        """context_for(), for calls of that caller (None: of any); None: a copy of the caller's context serves as it is."""
        if self._set:
            return self.context_for
        # Without decimal's context there is nothing in it that a call could change.
        if "decimal" not in sys.modules or (caller is not None and _find_decimal(caller) is None):
            return None
        return self.context_for

    def received(self, difference: bytes) -> Context:
        """The caller's context, of which this is the difference. What cannot be made here is left out."""
        if not difference:
            return self._made_in
        last = self._last
        if last is not None and last[0] == difference and all(_find(ref) is var for ref, var in last[1]):
            return last[2]
        context, found = _apply(self._made_in, difference)
        self._last = (difference, found, context)
        return context


class Sender:
    """The program's side: what differs in a caller's context from the one that the workers have. Thread-safe."""

    def __init__(self, made_in: Context) -> None:
        self._made_in = made_in
        # What was sent of a variable last: its value, and what became of it (None: it cannot be sent).
        self._sent: dict[Variable, tuple[Callable[[], Any], _serialize.Payload | None]] = {}

    def pack(self, context: Context) -> tuple[bytes, Sequence[object]]:
        """The difference, b"" where there is none, and the shared objects that it refers to."""
        made_in = self._made_in
        changed = [(var, value) for var, value in context.items() if made_in.get(var, _MISSING) is not value]
        gone = [var for var in made_in if var not in context]
        if not changed and not gone:
            return b"", ()
        pairs: list[tuple[Reference, bytes]] = []
        unbound: list[Reference] = []
        shared: list[object] = []
        for variable, value in changed:
            reference = self._refer(variable, shared)
            if reference is not None and (payload := self._value(variable, value)) is not None:
                pairs.append((reference, payload.data))
                shared += payload.shared
        for variable in gone:
            if (reference := self._refer(variable, shared)) is not None:
                unbound.append(reference)
        if not pairs and not unbound:
            return b"", ()
        return pickle.dumps((pairs, unbound), pickle.HIGHEST_PROTOCOL), shared

    def _refer(self, variable: Variable, shared: list[object]) -> Reference | None:
        place = place_of(variable)
        if place is None or place[0] not in MAIN_NAMES:
            return place
        sent_names = _main_module.sent_names()
        if not _main_module.by_value() and (sent_names is None or place[1] not in sent_names):
            return place  # the worker imports the main module
        try:
            payload = _serialize.dumps(variable, where=place[1])
        except Exception:  # left behind, as the design says
            return None
        shared += payload.shared
        return payload.data

    def _value(self, variable: Variable, value: Any) -> _serialize.Payload | None:
        known = look_up(self._sent, variable)
        if known is not None and known[0]() is value:
            payload: _serialize.Payload | None = known[1]
            return payload
        try:
            payload = _serialize.dumps(value, where=f"the value of the context variable {variable.name!r}")
        except Exception:  # left behind
            payload = None
        self._sent[variable] = _holder(value), payload
        return payload


def place_of(variable: Variable) -> tuple[str, str] | None:
    """The module and the name of its attribute that is this variable; None: there is none."""
    known = look_up(_places, variable)
    if known is not None:
        place, modules = known
        if place is None:
            if modules == len(sys.modules):
                return None
        elif look_up(_namespace(loaded(place[0])), place[1]) is variable:
            found: tuple[str, str] = place
            return found
    count = len(sys.modules)
    place = _search(variable)
    _places[variable] = place, count
    return place


def find_variable(module: str, name: str) -> Variable:
    """The variable that is this attribute of that module, which is imported."""
    if module in _unimportable:
        raise ImportError(f"the module {module!r} could not be imported before", name=module)
    owner = loaded(module)
    if owner is None:
        try:
            owner = importlib.import_module(module)
        except BaseException:
            _unimportable.add(module)  # each call would try it anew
            raise
    variable: Variable | None = getattr(owner, name, None)
    if variable is None or not _is_variable(variable):
        raise LookupError(f"the module {module!r} has no context variable {name!r}")
    return variable


def make_variable(name: str, *default: Any) -> Variable:
    """A variable of a main program that goes by value: a new one."""
    return ContextVar(name, default=default[0]) if default else ContextVar(name)


def default_of(variable: Variable) -> tuple[Any, ...]:
    """The default, or nothing."""
    try:
        return (Context().run(variable.get),)
    except LookupError:
        return ()


# Where variables were found, or that they are nowhere, and how many modules there were then.
_places: dict[Variable, tuple[tuple[str, str] | None, int]] = {}
_unimportable: set[str] = set()
_decimal: Variable | None = None  # decimal's, which nothing names; once it was met


def _search(variable: Variable) -> tuple[str, str] | None:
    in_main = None
    for module, owner in list(sys.modules.items()):
        for name, value in list(_namespace(owner).items()):
            if value is variable and isinstance(name, str):
                if module not in MAIN_NAMES:
                    return module, name
                in_main = in_main or ("__main__", name)
    return in_main


def _namespace(module: Any) -> dict[str, Any]:
    found: Any = getattr(module, "__dict__", None)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _is_variable(obj: object) -> bool:
    return isinstance(obj, ContextVar)


def _find(reference: Reference) -> Variable:
    if isinstance(reference, bytes):
        variable: Variable = _serialize.loads(reference)
        if not _is_variable(variable):
            raise LookupError(f"{variable!r} is no context variable")
        return variable
    return find_variable(*reference)


def _apply(made_in: Context, difference: bytes) -> tuple[Context, list[tuple[Reference, Variable]]]:
    pairs, unbound = pickle.loads(difference)
    found: list[tuple[Reference, Variable]] = []
    values: dict[Variable, Any] = {}
    for reference, data in pairs:
        try:
            variable, value = _find(reference), _serialize.loads(data)
        except KeyboardInterrupt:
            raise
        except BaseException:  # SystemExit as well: it is left behind, as the design says
            continue
        found.append((reference, variable))
        values[variable] = value
    gone: set[Variable] = set()
    for reference in unbound:
        try:
            variable = _find(reference)
        except KeyboardInterrupt:
            raise
        except BaseException:
            continue
        found.append((reference, variable))
        gone.add(variable)
    context = Context()  # what is unbound cannot be taken out of one
    context.run(_set, ((var, value) for var, value in made_in.items() if var not in gone))
    context.run(_set, values.items())
    return context, found


def _set(pairs: Iterable[tuple[Variable, Any]]) -> None:
    for variable, value in pairs:
        variable.set(value)


def _set_where_unchanged(changes: Iterable[tuple[Variable, Any, Any]]) -> None:
    for variable, value, before in changes:
        if variable.get(_MISSING) is before:
            variable.set(value)


def _holder(value: Any) -> Callable[[], Any]:
    # Gives the value while it lives. What has no weak references is kept: small values, mostly.
    if type(value) not in _ATOMS:
        try:
            reference = weakref.ref(value)
        except TypeError:
            pass
        else:

            def living() -> Any:
                found = reference()
                return _MISSING if found is None else found

            return living
    return lambda: value


def private_copy(context: Context) -> Context:
    """A copy in which decimal's context, whose value is changed in place, is a copy too."""
    mine = context.copy()
    _own_decimal(mine)
    return mine


def _own_decimal(context: Context) -> None:
    if "decimal" in sys.modules and _find_decimal(context) is not None:
        context.run(_copy_decimal)


def _find_decimal(context: Context) -> Variable | None:
    global _decimal
    if _decimal is not None:
        return _decimal if _decimal in context else None
    for variable, value in context.items():
        if variable.name == "decimal_context":
            import decimal

            if isinstance(value, decimal.Context):
                _decimal = variable
                return variable
    return None


def _copy_decimal() -> None:
    import decimal

    decimal.setcontext(decimal.getcontext().copy())


def _decimal_state(context: Context) -> Any:
    variable = _find_decimal(context) if "decimal" in sys.modules else None
    return None if variable is None else context[variable].__reduce__()
