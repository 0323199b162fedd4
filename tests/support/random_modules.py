"""A module with random generators, for workers: some with a seed, some without."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

unseeded = random.Random()
seeded = random.Random(7)
reseeded = random.Random()
reseeded.seed(7)


restored = random.Random()
restored.setstate(random.Random(7).getstate())
copied = copy.deepcopy(random.Random(7))
pickled = pickle.loads(pickle.dumps(random.Random(7)))


class Own(random.Random):
    """Cannot be compared by hash, and seeds itself its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __eq__(self, other: object) -> bool:
        return self is other

    def seed(self, a: Any = None, version: int = 2) -> None:
        if hasattr(self, "calls"):
            raise RuntimeError("it is seeded once")
        super().seed(a, version)


own = Own()


class Holder:
    """Has one too."""

    generator = random.Random()


def draw(barrier: Any) -> dict[str, float]:
    """What a worker draws; it meets the others first."""
    barrier.wait(60)
    return {
        "unseeded": unseeded.random(),
        "held": Holder.generator.random(),
        "own": own.random(),
        "the module's": random.random(),
        "seeded": seeded.random(),
        "reseeded": reseeded.random(),
        "restored": restored.random(),
        "copied": copied.random(),
        "pickled": pickled.random(),
    }
