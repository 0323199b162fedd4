"""One figure of ours beside one peer's: the ratio, the goal, the table."""

from __future__ import annotations

import math
import sys
from typing import NamedTuple


class Comparison(NamedTuple):
    """A case and one peer of it. A limit is a peer too: `theirs` is what ours may be at most, the goal 1."""

    case: str
    unit: str
    ours: float
    peer: str
    theirs: float
    goal: float  # at least this many times faster than the peer; 0 where no goal is set

    def ratio(self) -> float:
        """Not a number where either figure is missing, or lost in the noise of the empty loop."""
        return self.theirs / self.ours if self.ours > 0 and self.theirs > 0 else math.nan

    def met(self) -> bool:
        """False too where there is no ratio: what failed has met nothing."""
        return self.ratio() >= self.goal

    def line(self) -> str:
        goal = f"{self.goal:.3g}" if self.goal else "none"
        return (
            f"| {self.case}, {self.unit} | {figure(self.ours)} | {self.peer} | {figure(self.theirs)} "
            f"| {figure(self.ratio(), 'x')} ({goal}) | {'yes' if self.met() else 'no'} |"
        )


def figure(value: float, unit: str = "") -> str:
    return "failed" if math.isnan(value) else "noise" if not value else f"{value:.3g}{unit}"


def compare(case: str, unit: str, figures: dict[str, float], goals: dict[str, float]) -> list[Comparison]:
    """Ours, under "ours", beside each peer that `goals` names, where it was measured."""
    return [
        Comparison(case, unit, figures["ours"], peer, figures[peer], goal)
        for peer, goal in goals.items()
        if peer in figures
    ]


def table(rows: list[Comparison]) -> str:
    lines = ["| case | freethreading | peer | the peer's | ratio (goal) | met |", "|--|--|--|--|--|--|"]
    return "\n".join(lines + [row.line() for row in rows])


def shout(text: str) -> None:
    """Says loudly that something is left out of the table."""
    print(f"!!    {text}", file=sys.stderr, flush=True)
