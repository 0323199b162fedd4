"""set_preload(): what workers have from their beginning, and modules that no process can be forked behind."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import freethreading
from support.unfit_modules import UNFIT

PROGRAM = """
import sys

import freethreading


def look(name):
    import os
    import sys

    was_there = name in sys.modules
    return os.getpid(), was_there, __import__(name).value


def looks(name):
    # What each of three new workers sees.
    found = []
    for _ in range(3):
        with freethreading.WorkerPoolExecutor(1) as executor:
            found.append(executor.submit(look, name).result(60))
    assert len({pid for pid, *_ in found}) == 3
    return [(was_there, value) for _, was_there, value in found]


if __name__ == "__main__":
    freethreading.set_preload(sys.argv[1].split(","))
    for name in sys.argv[2:]:
        print(name, looks(name))
"""
# Each import of it is a line of a file.
MODULE = """
import os
import pathlib

with pathlib.Path(__file__).with_suffix(".log").open("a") as log:
    log.write(f"{os.getpid()}\\n")
value = 7
"""


def write_module(folder: Path, name: str, rest: str = "") -> None:
    (folder / f"{name}.py").write_text(MODULE + rest + "\n")


def imports(folder: Path, name: str) -> int:
    """How many times the module was imported."""
    return len((folder / f"{name}.log").read_text().split())


def run(folder: Path, preload: str, *names: str) -> dict[str, Any]:
    """What new workers see of the modules when those of `preload` are named, separated by commas."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "FREETHREADING_BACKEND": "multiprocessing"}
    done = subprocess.run(
        [sys.executable, str(program), preload, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    lines = (line.split(" ", 1) for line in done.stdout.splitlines())
    return {name: eval(found) for name, found in lines}


def test_is_imported_once(tmp_path: Path) -> None:
    write_module(tmp_path, "first")
    write_module(tmp_path, "second")
    seen = run(tmp_path, "first,second", "first", "second")
    assert seen == {"first": [(True, 7)] * 3, "second": [(True, 7)] * 3}
    assert imports(tmp_path, "first") == imports(tmp_path, "second") == 1


def test_a_module_of_a_package(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("value = 1\n")
    write_module(package, "part")
    assert run(tmp_path, "package.part", "package") == {"package": [(True, 1)] * 3}
    assert imports(package, "part") == 1


@pytest.mark.watchdog(120)
@pytest.mark.parametrize("how", UNFIT)
def test_one_that_cannot_be_forked_behind_is_each_workers_own(tmp_path: Path, how: str) -> None:
    write_module(tmp_path, "unfit", UNFIT[how])
    write_module(tmp_path, "fit")
    preload = "unfit" if how == "sleep" else "unfit,fit"
    seen = run(tmp_path, preload, "unfit", "fit")
    assert seen["unfit"] == [(False, 7)] * 3
    assert seen["fit"] == [(how != "sleep", 7)] * 3


def test_a_part_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    write_module(tmp_path, "fit")
    assert run(tmp_path, "json.nowhere,__main__,fit", "fit") == {"fit": [(True, 7)] * 3}


def test_numpy(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("threadpoolctl")
    (tmp_path / "sums.py").write_text(
        "import numpy\nvalue = float((numpy.ones((300, 300)) @ numpy.ones((300, 300))).sum())\n"
    )
    assert run(tmp_path, "numpy,sums", "sums") == {"sums": [(True, 27e6)] * 3}


def test_polars(tmp_path: Path) -> None:
    # Where it starts threads when it is imported, it is left out, and each worker imports it.
    pytest.importorskip("polars")
    (tmp_path / "frames.py").write_text(
        "import polars\n"
        "frame = polars.DataFrame({'group': [1, 2] * 500, 'number': range(1000)})\n"
        "value = frame.group_by('group').agg(polars.col('number').sum()).sort('group')['number'].to_list()\n"
    )
    seen = run(tmp_path, "polars,frames", "frames")
    assert [value for _, value in seen["frames"]] == [[249500, 250000]] * 3


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        ("numpy", TypeError, r"must be names, as in \['numpy'\], not the string"),
        (["json", 5], TypeError, "a module's name must be a str, not 5"),
        (["json", ""], ValueError, "'' is not a module's full name"),
        ([".json"], ValueError, "'.json' is not"),
        (["json", "nowhere.part"], ModuleNotFoundError, "there is no module 'nowhere' that"),
        (7, TypeError, "not iterable"),
    ],
)
def test_what_is_not_the_name_of_a_module(names: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        freethreading.set_preload(names)


def test_behind_the_first_worker_it_is_too_late() -> None:
    code = """
        import freethreading
        freethreading.set_preload(["json"])
        freethreading.set_preload([])
        if __name__ == "__main__":
            worker = freethreading.Worker(target=print)
            worker.start()
            worker.join()
            try:
                freethreading.set_preload(["json"])
            except RuntimeError as error:
                print(error)
    """
    environment = {**os.environ, "FREETHREADING_BACKEND": "multiprocessing"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\nset_preload() comes too late: process workers have been started already\n"
    assert done.stderr == ""
