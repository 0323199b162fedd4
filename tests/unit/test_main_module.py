"""How __main__ travels: each program below runs in an interpreter of its own, started in each way there is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from freethreading import _main_guard

TESTS = Path(__file__).parent.parent
SOURCES = TESTS.parent / "src"
SECONDS = 60

UNGUARDED = """
import enum, functools, math, os, sys, threading, types
from support.far_worker import FarWorker

print("top level", flush=True)
counter = 0
calls = []
big = bytes(3_000_000)
lock_like = threading.Lock()

class Color(enum.Enum):
    RED = 1
    BLUE = 2

class Base:
    def who(self): return type(self).__name__

class Point(Base):
    __slots__ = ("x", "y")
    class Inner:
        pass
    def __init__(self, x, y): self.x, self.y = x, y
    def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)
    def swap(self): return Point(self.y, self.x)

def square(x): return x * x
def hypotenuse(a, b): return math.sqrt(square(a) + square(b))
def swap(p): return p.swap()
def other(color): return Color.BLUE if color is Color.RED else Color.RED
def inner(): return Point.Inner()
def init(value):
    global counter
    counter = value
def bump():
    global counter
    counter += 1
    return counter
def read_counter(): return counter
def size(): return len(big)
def uses_lock():
    with lock_like:
        return 1
def may_use_lock(use):
    return lock_like if use else "fine"
@functools.lru_cache(maxsize=None)
def cached(x):
    calls.append(x)
    return x
def hits(): return cached.cache_info().hits, list(calls)
def twice(f):
    @functools.wraps(f)
    def wrapper(*args): return f(f(*args))
    return wrapper
@twice
def add_one(x): return x + 1
@functools.singledispatch
def kind(x): return "object"
@kind.register(int)
def _(x): return "int"
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def is_even(n): return n == 0 or is_odd(n - 1)
def is_odd(n): return n != 0 and is_even(n - 1)
def main_name(): return __name__, sys.modules["__main__"].__dict__ is globals()
def pid(): return os.getpid()

class Node:
    pass
Node.related = [Node]
class Left: pass
class Right: pass
Left.other = Right
Right.other = Left
def cycle(): return Left.other.other is Left and Node.related == [Node]
shared = []
holder = {"shared": shared}
def same(): return holder["shared"] is shared

with FarWorker() as worker:
    call = worker.call
    assert call(pid) != os.getpid()
    assert call(hypotenuse, 3, 4) == 5
    assert call(main_name) == ("__main__", True)
    assert call(swap, Point(1, 2)) == Point(2, 1)
    assert type(call(swap, Point(1, 2))) is Point
    assert type(call(inner)) is Point.Inner
    assert call(other, Color.RED) is Color.BLUE
    assert call(Point(1, 2).who) == "Point"
    call(init, 10)
    assert [call(bump), call(bump), call(read_counter)] == [11, 12, 12]
    assert counter == 0
    assert call(cached, 5) == 5 and call(cached, 5) == 5
    assert call(hits) == (1, [5])
    assert call(add_one, 1) == 3
    assert (call(kind, 1), call(kind, "")) == ("int", "object")
    assert call(fib, 10) == 55
    assert call(is_even, 10) is True
    assert call(cycle) and call(same)
    # Lambdas and closures share the worker's globals with everything else.
    assert call(lambda: counter) == 12
    def make(n):
        total = n
        def add(x):
            nonlocal total
            total += x
            return total
        def get(): return total + counter
        return add, get
    assert call(lambda pair: (pair[0](1), pair[1]()), make(1)) == (2, 14)
    assert call(lambda: (lambda: square(7))())  == 49
    # A big global goes once; a changed one again.
    assert call(size) == 3_000_000
    log = __import__("freethreading._main_module")._main_module.publisher().log
    def total(): return sum(log.sizes)
    before = total()
    for _ in range(5):
        assert call(size) == 3_000_000
    assert total() == before and worker.bytes_sent < 1000
    def size(): return len(big) + 1
    assert call(size) == 3_000_001
    assert total() - before < 10_000
    big = b"12"
    assert call(size) == 3
    # What cannot come says so where it is used, and only there.
    assert call(may_use_lock, False) == "fine"
    try:
        call(uses_lock)
    except NameError as error:
        assert "lock_like" in str(error) and "cannot pickle" in str(error), error
    else:
        raise AssertionError("no error")
    # Defined after the function that uses it.
    def late(): return later()
    def later(): return "later"
    assert call(late) == "later"
    class Local:
        def __init__(self): self.v = Color.RED
    assert call(lambda o: o.v is Color.RED, Local())
    # A redefined class, and what the worker makes of the new one.
    class Point(Base):
        def __init__(self, x, y): self.x, self.y = x, y
        def swap(self): return Point(self.y * 10, self.x)
    assert call(swap, Point(1, 2)).x == 20
    assert type(call(swap, Point(1, 2))) is Point
with FarWorker() as second:
    assert second.call(size) == 3 and second.call(read_counter) == 0
    # A name that the worker has set itself stays until the program binds another object to it.
    def set_it(): globals()["made_there"] = "there"
    def get_it(): return made_there
    second.call(set_it)
    made_there = "here"
    assert second.call(get_it) == "there"
    made_there = "changed"
    assert second.call(get_it) == "changed"
print("done")
"""

GUARDED = """
import enum, sys
from support.far_worker import FarWorker

print("top level", flush=True)
counter = 0

class Color(enum.Enum):
    RED = 1
    BLUE = 2

def other(color): return Color.BLUE if color is Color.RED else Color.RED
def init(value):
    global counter
    counter = value
def read_counter(): return counter
def names(): return __name__, sys.modules["__main__"].__dict__ is globals()

if __name__ == "__main__":
    with FarWorker() as worker:
        call = worker.call
        assert call(names) == ("__mp_main__", True)
        assert call(other, Color.RED) is Color.BLUE
        call(init, 5)
        assert call(read_counter) == 5
        assert call(lambda: counter) == 5
        assert call(lambda c: other(c), Color.RED) is Color.BLUE
        assert counter == 0
    print("done")
"""


ZOO = """
import abc, asyncio, collections, contextlib, dataclasses, enum, functools, typing
from support.far_worker import FarWorker

T = typing.TypeVar("T")

@dataclasses.dataclass(order=True)
class Data:
    a: int
    b: list = dataclasses.field(default_factory=list)
    @functools.cached_property
    def total(self): return self.a + len(self.b)

@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int

class Pair(typing.NamedTuple):
    first: int
    second: str = "s"
    def both(self): return f"{self.first}{self.second}"

Old = collections.namedtuple("Old", "p q")

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
    @classmethod
    def make(cls, *args): return cls(*args)
    @staticmethod
    def unit(): return "m"

class Square(Shape):
    def __init__(self, side): super().__init__(); self.side = side
    def area(self): return self.side ** 2
    @property
    def double(self): return self.side * 2

class Flag(enum.IntFlag):
    A = 1
    B = 2
    def label(self): return self.name

class Text(str, enum.Enum):
    X = enum.auto() if False else "x"

class Meta(type):
    def __call__(cls, *args):
        obj = super().__call__(*args)
        obj.made_by = "meta"
        return obj

class WithMeta(metaclass=Meta):
    pass

class Stack(typing.Generic[T]):
    def __init__(self): self.items: list[T] = []
    def push(self, item: T) -> "Stack[T]":
        self.items.append(item)
        return self

class Proto(typing.Protocol):
    def run(self) -> int: ...

class MyError(Exception):
    def __init__(self, code): super().__init__(code); self.code = code

class Registry(dict):
    pass
registry = Registry()
def register(f):
    registry[f.__name__] = f
    return f
@register
def registered(x): return x + len(registry)

class _Sentinel:
    def __reduce__(self): return "SENTINEL"
SENTINEL = _Sentinel()

@contextlib.contextmanager
def managed(x):
    yield x * 2
async def coroutine(x):
    await asyncio.sleep(0)
    return x + 1
def run_async(x): return asyncio.run(coroutine(x))
def use_managed(x):
    with managed(x) as y: return y
def fail(code): raise MyError(code)
def from_registry(x): return registry["registered"](x)
def is_sentinel(x): return x is SENTINEL, SENTINEL
def shapes(): return Square.make(3)
def counter_of(words): return collections.Counter(words)
partial = functools.partial(lambda a, b: a * b, 5)
def use_partial(x): return partial(x)
typed: "Proto" = None
def generator_of(n): return sum(i for i in range(n) if i in lookup)
lookup = {1, 2, 3}
def class_inside():
    class Inside:
        value = lookup
    return len(Inside.value)

with FarWorker() as worker:
    call = worker.call
    data = call(lambda d: dataclasses.replace(d, a=d.total), Data(1, [2, 3]))
    assert data == Data(3, [2, 3]) and type(data) is Data
    assert call(lambda f: f, Frozen(4)) == Frozen(4)
    assert call(lambda p: p._replace(first=2), Pair(1)).both() == "2s"
    assert type(call(lambda p: p, Old(1, 2))) is Old
    assert type(call(shapes)) is Square and call(shapes).area() == 9 and call(lambda s: s.double, Square(2)) == 4
    assert call(lambda f: f | Flag.B, Flag.A) == Flag.A | Flag.B
    assert call(lambda t: t, Text.X) is Text.X
    assert call(lambda: WithMeta().made_by) == "meta"
    assert call(lambda s: s.push(2), Stack[int]()).items == [2]
    assert call(run_async, 1) == 2 and call(use_managed, 2) == 4
    assert call(from_registry, 1) == 2
    assert call(is_sentinel, SENTINEL) == (True, SENTINEL)
    assert call(counter_of, "aab")["a"] == 2 and call(use_partial, 2) == 10
    assert call(generator_of, 10) == 6 and call(class_inside) == 3
    for _ in range(2):
        try:
            call(fail, 7)
        except MyError as error:
            assert error.code == 7 and "in fail" in str(error.__cause__)
    assert call(Square(5).area) == 25 and call(Square.make, 1).side == 1
    assert call(typing.get_type_hints, Data.__init__) is not None
print("done")
"""


def run(arguments: list[str], cwd: Path, text: str | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{TESTS}", "TMPDIR": str(cwd)},
    )
    assert done.returncode == 0, done.stderr
    return (done.stdout + done.stderr).splitlines()


def lines(text: list[str], word: str) -> int:
    return sum(line.strip() == word for line in text)


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_a_program_that_is_never_run_again(how: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(UNGUARDED)
    out = {
        "file": lambda: run(["program.py"], tmp_path),
        "-c": lambda: run(["-c", UNGUARDED], tmp_path),
        "stdin": lambda: run(["-"], tmp_path, UNGUARDED),
    }[how]()
    assert lines(out, "top level") == 1
    assert lines(out, "done") == 1


def test_definitions_of_every_kind(tmp_path: Path) -> None:
    assert run(["-c", ZOO], tmp_path) == ["done"]


@pytest.mark.parametrize("how", ["file", "-m"])
def test_a_file_with_a_guard_is_imported_once(how: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(GUARDED)
    out = run(["program.py"] if how == "file" else ["-m", "program"], tmp_path)
    assert lines(out, "top level") == 2
    assert lines(out, "done") == 1


def test_module_of_a_package_with_relative_imports(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tools.py").write_text("def triple(x): return 3 * x\n")
    (package / "main.py").write_text(
        textwrap.dedent(
            """
            from .tools import triple
            from support.far_worker import FarWorker
            def work(x): return triple(x) + 1
            if __name__ == "__main__":
                with FarWorker() as worker:
                    print(worker.call(work, 2))
            """
        )
    )
    (package / "__main__.py").write_text((package / "main.py").read_text())
    assert run(["-m", "pack.main"], tmp_path) == ["7"]
    assert run(["-m", "pack"], tmp_path) == ["7"]


def test_interactive_prompt(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        from support.far_worker import FarWorker
        n = 1
        def f(x): return x + n

        worker = FarWorker()
        print("first", worker.call(f, 1))
        n = 10
        print("second", worker.call(f, 1))
        def f(x): return -x - n

        print("third", worker.call(f, 1))
        worker.close()
        """
    )
    out = "\n".join(run(["-i", "-q"], tmp_path, text))
    assert "first 2" in out
    assert "second 11" in out
    assert "third -11" in out


def test_a_worker_makes_workers_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import enum
            from support.far_worker import FarWorker
            class Color(enum.Enum):
                RED = 1
            def leaf(x): return x, Color.RED
            def middle(x):
                with FarWorker() as inner:
                    value, color = inner.call(leaf, x + 1)
                    assert color is Color.RED
                    return value, color
            def wrong():
                with FarWorker() as inner:
                    return inner.call(leaf)
            with FarWorker() as worker:
                value, color = worker.call(middle, 1)
                assert color is Color.RED
                print(value)
                try:
                    worker.call(wrong)
                except TypeError as error:
                    print("TypeError")
            """
        )
    )
    assert run(["program.py"], tmp_path) == ["2", "TypeError"]


def test_what_a_worker_defines_comes_back_by_value(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        from support.far_worker import FarWorker
        def define():
            global made
            exec("def made(x): return x + base", globals())
            return made
        base = 5
        with FarWorker() as worker:
            print(worker.call(define)(1))
            print(worker.call(lambda: (lambda x: x + base))(2))
        """
    )
    assert run(["-c", text], tmp_path) == ["6", "7"]


def test_a_named_function_that_cannot_travel_is_named_at_the_call(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        import threading
        from support.far_worker import FarWorker
        import freethreading
        class Bad:
            lock = threading.Lock()
        def fine(): return 1
        with FarWorker() as worker:
            for _ in range(2):
                try:
                    worker.call(Bad)
                except freethreading.NotPicklableError as error:
                    print(error)
            print(worker.call(fine))
        """
    )
    first, second, value = run(["-c", text], tmp_path)
    assert first == second
    assert "must be picklable" in first
    assert "lock" in first
    assert value == "1"


def test_what_only_the_guarded_part_defines_goes_by_value(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import enum
            from support.far_worker import FarWorker
            class Outside:
                pass
            def use(function, x): return function(x)
            def nested(function, x):
                with FarWorker() as inner:
                    return inner.call(use, function, x)
            if __name__ == "__main__":
                factor = 3
                class Color(enum.Enum):
                    RED = 1
                def times(x): return factor * x, Color.RED, Outside
                with FarWorker() as worker:
                    assert worker.call(times, 2) == (6, Color.RED, Outside)
                    assert worker.call(use, times, 2) == (6, Color.RED, Outside)
                    assert worker.call(lambda x: x + factor, 2) == 5
                    factor = 4
                    assert worker.call(times, 2) == (8, Color.RED, Outside)
                    assert worker.call(nested, times, 2) == (8, Color.RED, Outside)
                print("done")
            """
        )
    )
    assert run(["program.py"], tmp_path) == ["done"]


def test_threads_publish_at_once(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        import threading
        from support.far_worker import FarWorker
        base = 0
        errors = []
        def run(number):
            try:
                with FarWorker() as worker:
                    for turn in range(20):
                        name = f"f_{number}_{turn}"
                        previous = f"f_{number}_{turn - 1}(x)" if turn else "base"
                        exec(f"def {name}(x): return x + {previous}", globals())
                        assert worker.call(globals()[name], 1) == turn + 1, (number, turn)
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(errors)
        """
    )
    assert run(["-c", text], tmp_path) == ["[]"]


def test_the_child_of_a_fork_has_a_log_of_its_own(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        import os
        from support.far_worker import FarWorker
        n = 1
        def f(): return n
        with FarWorker() as worker:
            assert worker.call(f) == 1
            child = os.fork()
            if child == 0:
                n = 2
                with FarWorker() as other:
                    os._exit(10 * other.call(f))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(worker.call(f))
        """
    )
    assert run(["-c", text], tmp_path) == ["20", "1"]


@pytest.mark.parametrize(
    ("source", "guarded"),
    [
        ('if __name__ == "__main__":\n    pass', True),
        ("if '__main__' == __name__:\n    pass", True),
        ('def f():\n    if __name__ == "__main__": pass', False),
        ("print(__name__)", False),
        ("if True:\n    pass", False),
        ("if __name__ ==", False),
    ],
)
def test_guard(source: str, guarded: bool) -> None:
    assert (_main_guard.guarded(source) is not None) is guarded


def test_names_of_the_guarded_part() -> None:
    source = """
        import a.b as c
        both = 1
        def outside(): inner = 1
        if __name__ == "__main__":
            import os.path, sys as system
            both, (one, *rest) = 2, (3, 4)
            def f(): local = 1
            class C: attribute = 1
            for i in [x for x in rest]: pass
            try: pass
            except OSError as error: pass
        else:
            other = 1
        """
    found = _main_guard.guarded(textwrap.dedent(source))
    assert found is not None
    assert found.names == {"os", "system", "one", "rest", "f", "C", "i", "error"}
    assert found.definitions == (b"C", b"f")
