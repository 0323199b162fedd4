"""The same suite over ours on threads, ours on processes, threading and multiprocessing."""

from __future__ import annotations

import pytest

from support.subjects import OURS, SUBJECTS, Subject


def _activated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Subject:
    subject: Subject = request.param
    monkeypatch.delenv("FREETHREADING_BACKEND", raising=False)
    monkeypatch.setenv(
        "FREETHREADING_BACKEND", "threading"
    )  # undone after the test, whatever activate() sets
    subject.activate()
    return subject


@pytest.fixture(params=SUBJECTS, ids=repr)
def subject(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """One of all four."""
    return _activated(request, monkeypatch)


@pytest.fixture(params=OURS, ids=repr)
def ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Ours on one of the two back ends."""
    return _activated(request, monkeypatch)
