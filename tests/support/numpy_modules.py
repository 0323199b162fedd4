"""The same with NumPy's generators."""

from __future__ import annotations

from typing import Any

import numpy as np

unseeded = np.random.default_rng()
seeded = np.random.default_rng(2**127 + 5)
philox = np.random.Generator(np.random.Philox())
philox.random()
sfc = np.random.Generator(np.random.SFC64())
jumped = np.random.Generator(np.random.PCG64(7).jumped())
jumped_twister = np.random.Generator(np.random.MT19937(7).jumped())
restored = np.random.default_rng()
restored.bit_generator.state = np.random.default_rng(7).bit_generator.state
old = np.random.RandomState()
old.random_sample(3000)
old_anew = np.random.RandomState(7)
old_anew.seed()
old_restored = np.random.RandomState()
old_restored.set_state(np.random.RandomState(7).get_state())


class Named(np.random.PCG64):
    """Is not made without arguments."""

    def __init__(self, seed: int | None, name: str) -> None:
        super().__init__(seed)
        self.name = name


named = np.random.Generator(Named(None, "a name"))
old_seeded = np.random.RandomState(7)


def draw(barrier: Any) -> dict[str, float]:
    """What a worker draws; it meets the others first."""
    barrier.wait(60)
    return {
        "unseeded": float(unseeded.random()),
        "philox": float(philox.random()),
        "sfc": float(sfc.random()),
        "named": float(named.random()),
        "old": float(old.random_sample()),
        "old_anew": float(old_anew.random_sample()),
        "the module's": float(np.random.random()),
        "seeded": float(seeded.random()),
        "old_seeded": float(old_seeded.random_sample()),
        "old_restored": float(old_restored.random_sample()),
        "jumped": float(jumped.random()),
        "jumped_twister": float(jumped_twister.random()),
        "restored": float(restored.random()),
    }
