"""A main program without a guard: what is defined below must reach the worker without this file running twice."""
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
