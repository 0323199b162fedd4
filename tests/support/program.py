"""Runs a program of its own, to see how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap


def run_program(code: str, backend: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` with ``python -c`` on a back end; it has a minute."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "FREETHREADING_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
