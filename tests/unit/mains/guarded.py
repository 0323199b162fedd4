"""A main program with a guard: workers import it."""
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
