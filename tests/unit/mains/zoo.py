"""A main program without a guard that defines what there is to define."""
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
