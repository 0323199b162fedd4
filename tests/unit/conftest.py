"""What tests of several modules need."""

from __future__ import annotations

import pytest

from freethreading import _main_module


@pytest.fixture(params=[False, True], ids=["main by name", "main by value"])
def kind_of_main(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What __main__ defines goes to workers by its name (they import it), or by value."""
    monkeypatch.setattr(_main_module, "by_value", lambda: request.param)
