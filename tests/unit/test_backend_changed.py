"""The GIL comes back in the middle of a program on a free-threaded build: new workers are processes, one warning says why."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings

import pytest

import freethreading

# A module of CPython's own tests that does not declare that it runs without the GIL.
TURN_ON = """
import sys, importlib.util, _testmultiphase
from importlib.machinery import ExtensionFileLoader
def turn_on():
    loader = ExtensionFileLoader("_testmultiphase_nonmodule", _testmultiphase.__file__)
    importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    assert sys._is_gil_enabled()
"""


def run_without_gil(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("FREETHREADING_BACKEND", "PYTHON_GIL", "PYTHONWARNINGS")
    }
    return subprocess.run(
        [sys.executable, *options, "-c", TURN_ON + code],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


@pytest.fixture
def free_threaded() -> None:
    asks = getattr(sys, "_is_gil_enabled", None)
    if asks is None or asks():
        pytest.skip("the GIL is on")
    if importlib.util.find_spec("_testmultiphase") is None:
        pytest.skip("this interpreter came without the modules of its tests")


CHANGES = """
import freethreading, warnings
before = freethreading.Worker()
turn_on()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    after = [{make}, {make}]
for each in caught:
    print(each.category.__name__, each.message, "|", each.filename)
print(type(before._body).__name__)
"""


@pytest.mark.parametrize(
    "make",
    [
        "freethreading.Worker()",
        "freethreading.WorkerPool(1).terminate()",
        "freethreading.WorkerPoolExecutor(1).shutdown()",
    ],
)
def test_one_warning_names_the_module(free_threaded: None, make: str) -> None:
    warned, body = run_without_gil(CHANGES.format(make=make)).stdout.splitlines()
    assert warned.startswith("BackendChangedWarning")
    assert "_testmultiphase_nonmodule:" in warned
    assert warned.endswith("| <string>")  # the caller's line, not one of ours
    assert body == "WorkerThread"


def test_suspects_are_named_where_cpythons_own_warning_is_ignored(free_threaded: None) -> None:
    code = CHANGES.format(make="freethreading.Worker()").replace("turn_on()", "import _testcapi; turn_on()")
    done = run_without_gil(code, "-Wignore")
    assert "an extension module, one of these: " in done.stdout
    assert "_testcapi" in done.stdout


def test_new_workers_are_processes(free_threaded: None) -> None:
    code = """
import freethreading, os, warnings
warnings.simplefilter("ignore")
with freethreading.WorkerPool(1) as pool:
    turn_on()
    print(pool.apply(os.getpid) == os.getpid())
with freethreading.WorkerPool(1) as pool:
    print(pool.apply(os.getpid) == os.getpid())
"""
    assert run_without_gil(code).stdout.split() == ["True", "False"]


def test_where_it_is_an_error_the_next_worker_is_made(free_threaded: None) -> None:
    code = """
import freethreading, warnings
turn_on()
warnings.simplefilter("error", freethreading.BackendChangedWarning)
try:
    freethreading.Worker()
except freethreading.BackendChangedWarning:
    print("raised")
print(type(freethreading.Worker()._body).__name__)
"""
    assert run_without_gil(code).stdout.split() == ["raised", "WorkerProcess"]


def test_no_warning_where_the_back_end_is_named(free_threaded: None) -> None:
    code = """
import freethreading, os, warnings
turn_on()
warnings.simplefilter("error", freethreading.BackendChangedWarning)
os.environ["FREETHREADING_BACKEND"] = "multiprocessing"
freethreading.Worker()
print("quiet")
"""
    assert run_without_gil(code).stdout.strip() == "quiet"


def test_no_warning_for_a_replaced_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FREETHREADING_BACKEND", raising=False)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", freethreading.BackendChangedWarning)
        freethreading.Worker()
        importlib.reload(freethreading)
        freethreading.Worker()
