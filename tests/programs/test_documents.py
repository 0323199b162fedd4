"""The programs in README.md, in the tutorial and in the guide run on both back ends, and print what their comments say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "docs/tutorial/index.md",
    "docs/guide/pools.md",
    "docs/guide/queues.md",
    "docs/guide/sharing.md",
)
BLOCKS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    )
]
# A comment behind a print() that is the output itself, to the letter.
PRINTED = re.compile(r"print\(.*\) +# (True|False|\d+|\w+|\[[\d, ]*\])(?:,.*)?$", re.MULTILINE)


@pytest.mark.parametrize("code", BLOCKS)
def test_it_runs(code: str, backend: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(code)
    done = subprocess.run(
        [sys.executable, str(path)],
        env={**os.environ, "FREETHREADING_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    output = done.stdout.splitlines()
    for line in PRINTED.findall(code):
        if line == "MainThread" and backend == "multiprocessing":
            line = "MainProcess"
        assert line in output


def test_there_are_programs() -> None:
    assert len(BLOCKS) >= 6
