"""The standard library's suites pass with our types, but for the listed differences; a listed one that passes is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .differences import DIFFERENCES

HERE = Path(__file__).parent
SUITES = ("lock_tests", "test_queue", "test_multiprocessing", "test_concurrent_futures")
MODULE = {"test_multiprocessing": "_test_multiprocessing"}
SECONDS = 300


def is_shipped(suite: str) -> bool:
    code = f"import test.{MODULE.get(suite, suite)}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.watchdog(SECONDS + 60)
@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite: str, backend: str) -> None:
    if not is_shipped(suite):
        pytest.skip(f"this interpreter does not ship test.{MODULE.get(suite, suite)}")
    expected = {name for name, difference in DIFFERENCES.items() if backend in difference.backends}
    excluded = sorted(name for name in expected if not DIFFERENCES[name].runs)
    environment = {**os.environ, "FT_EXCLUDED": json.dumps(excluded), "FREETHREADING_BACKEND": backend}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(HERE / "suites.py"), suite],
            env=environment, cwd=HERE, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        output, errors = done.stdout, done.stderr
    except subprocess.TimeoutExpired as hang:
        output, errors = (hang.stdout or b"").decode(), (hang.stderr or b"").decode()
    records = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    outcomes: dict[str, str] = {}
    details: dict[str, str] = {}
    for record in records:
        if "test" in record and outcomes.get(record["test"]) != "failed":
            outcomes[record["test"]] = record["outcome"]
            details[record["test"]] = record["detail"]
    stuck = [name for name, outcome in outcomes.items() if outcome == "started"]
    assert not stuck, f"{stuck} did not end\n{errors[-3000:]}"
    assert records and "finished" in records[-1], f"the run ended early\n{errors[-3000:]}"
    surprises = [
        f"{name}:\n{details[name]}"
        for name, outcome in outcomes.items()
        if outcome == "failed" and name not in expected
    ]
    assert not surprises, "\n".join(surprises)
    pass_now = sorted(name for name in expected if outcomes.get(name) == "passed")
    assert not pass_now, f"listed as different, but they pass: {pass_now}"
    assert sum(outcome == "passed" for outcome in outcomes.values()) > 10
