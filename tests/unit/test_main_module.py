"""How __main__ travels: each program below runs in an interpreter of its own, started in each way there is."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import freethreading
from freethreading import _main_guard

TESTS = Path(__file__).parent.parent
SOURCES = Path(freethreading.__file__).parent.parent
MAINS = Path(__file__).parent / "mains"
SECONDS = 60

UNGUARDED = (MAINS / "unguarded.py").read_text()
GUARDED = (MAINS / "guarded.py").read_text()
ZOO = (MAINS / "zoo.py").read_text()


def run(arguments: list[str], cwd: Path, text: str | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{TESTS}", "TMPDIR": str(cwd)},
    )
    assert done.returncode == 0, done.stderr
    return (done.stdout + done.stderr).splitlines()


def lines(text: list[str], word: str) -> int:
    return sum(line.strip() == word for line in text)


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_a_program_that_is_never_run_again(how: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(UNGUARDED)
    out = {
        "file": lambda: run(["program.py"], tmp_path),
        "-c": lambda: run(["-c", UNGUARDED], tmp_path),
        "stdin": lambda: run(["-"], tmp_path, UNGUARDED),
    }[how]()
    assert lines(out, "top level") == 1
    assert lines(out, "done") == 1


AT_IMPORT = """
import freethreading
def square(x):
    return x * x
START
"""
STARTS = {
    "a pool's call": "result = freethreading.WorkerPool(2).map(square, [2])",
    "an executor's call": "result = freethreading.WorkerPoolExecutor(2).submit(square, 2).result()",
    "a worker": "worker = freethreading.Worker(target=square, args=(2,)); worker.start(); worker.join(); code = worker.exitcode",
}


@pytest.mark.parametrize("what", STARTS)
def test_a_module_that_starts_work_at_its_import_does_so_once(what: str, tmp_path: Path) -> None:
    (tmp_path / "at_import.py").write_text(AT_IMPORT.replace("START", STARTS[what]))
    program = """
        import os
        os.environ["FREETHREADING_BACKEND"] = "multiprocessing"
        try:
            import at_import
            print("exit code", at_import.code)
        except RuntimeError as error:
            print(str(error).splitlines()[0])
    """
    out = run(["-c", textwrap.dedent(program)], tmp_path)
    assert sum("starts workers when it is imported" in line for line in out) == 1, out
    assert what != "a worker" or "exit code 1" in out


def test_definitions_of_every_kind(tmp_path: Path) -> None:
    assert run(["-c", ZOO], tmp_path) == ["done"]


@pytest.mark.parametrize("how", ["file", "-m"])
def test_a_file_with_a_guard_is_imported_once(how: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(GUARDED)
    out = run(["program.py"] if how == "file" else ["-m", "program"], tmp_path)
    assert lines(out, "top level") == 2
    assert lines(out, "done") == 1


def test_module_of_a_package_with_relative_imports(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tools.py").write_text("def triple(x): return 3 * x\n")
    (package / "main.py").write_text(
        textwrap.dedent(
            """
            from .tools import triple
            from support.far_worker import FarWorker
            def work(x): return triple(x) + 1
            if __name__ == "__main__":
                with FarWorker() as worker:
                    print(worker.call(work, 2))
            """
        )
    )
    (package / "__main__.py").write_text((package / "main.py").read_text())
    assert run(["-m", "pack.main"], tmp_path) == ["7"]
    assert run(["-m", "pack"], tmp_path) == ["7"]


def test_interactive_prompt(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        from support.far_worker import FarWorker
        n = 1
        def f(x): return x + n

        worker = FarWorker()
        print("first", worker.call(f, 1))
        n = 10
        print("second", worker.call(f, 1))
        def f(x): return -x - n

        print("third", worker.call(f, 1))
        worker.close()
        """
    )
    out = "\n".join(run(["-i", "-q"], tmp_path, text))
    assert "first 2" in out
    assert "second 11" in out
    assert "third -11" in out


def test_a_worker_makes_workers_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import enum
            from support.far_worker import FarWorker
            class Color(enum.Enum):
                RED = 1
            def leaf(x): return x, Color.RED
            def middle(x):
                with FarWorker() as inner:
                    value, color = inner.call(leaf, x + 1)
                    assert color is Color.RED
                    return value, color
            def wrong():
                with FarWorker() as inner:
                    return inner.call(leaf)
            with FarWorker() as worker:
                value, color = worker.call(middle, 1)
                assert color is Color.RED
                print(value)
                try:
                    worker.call(wrong)
                except TypeError as error:
                    print("TypeError")
            """
        )
    )
    assert run(["program.py"], tmp_path) == ["2", "TypeError"]


def test_what_a_worker_defines_comes_back_by_value(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        from support.far_worker import FarWorker
        def define():
            global made
            exec("def made(x): return x + base", globals())
            return made
        base = 5
        with FarWorker() as worker:
            print(worker.call(define)(1))
            print(worker.call(lambda: (lambda x: x + base))(2))
        """
    )
    assert run(["-c", text], tmp_path) == ["6", "7"]


def test_a_named_function_that_cannot_travel_is_named_at_the_call(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        import threading
        from support.far_worker import FarWorker
        import freethreading
        class Bad:
            lock = threading.Lock()
        def fine(): return 1
        with FarWorker() as worker:
            for _ in range(2):
                try:
                    worker.call(Bad)
                except freethreading.NotPicklableError as error:
                    print(error)
            print(worker.call(fine))
        """
    )
    first, second, value = run(["-c", text], tmp_path)
    assert first == second
    assert "must be picklable" in first
    assert "lock" in first
    assert value == "1"


def test_what_only_the_guarded_part_defines_goes_by_value(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import enum
            from support.far_worker import FarWorker
            class Outside:
                pass
            def use(function, x): return function(x)
            def nested(function, x):
                with FarWorker() as inner:
                    return inner.call(use, function, x)
            if __name__ == "__main__":
                factor = 3
                class Color(enum.Enum):
                    RED = 1
                def times(x): return factor * x, Color.RED, Outside
                with FarWorker() as worker:
                    assert worker.call(times, 2) == (6, Color.RED, Outside)
                    assert worker.call(use, times, 2) == (6, Color.RED, Outside)
                    assert worker.call(lambda x: x + factor, 2) == 5
                    factor = 4
                    assert worker.call(times, 2) == (8, Color.RED, Outside)
                    assert worker.call(nested, times, 2) == (8, Color.RED, Outside)
                print("done")
            """
        )
    )
    assert run(["program.py"], tmp_path) == ["done"]


def test_threads_publish_at_once(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        import threading
        from support.far_worker import FarWorker
        base = 0
        errors = []
        def run(number):
            try:
                with FarWorker() as worker:
                    for turn in range(20):
                        name = f"f_{number}_{turn}"
                        previous = f"f_{number}_{turn - 1}(x)" if turn else "base"
                        exec(f"def {name}(x): return x + {previous}", globals())
                        assert worker.call(globals()[name], 1) == turn + 1, (number, turn)
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(errors)
        """
    )
    assert run(["-c", text], tmp_path) == ["[]"]


def test_the_child_of_a_fork_has_a_log_of_its_own(tmp_path: Path) -> None:
    text = textwrap.dedent(
        """
        import os
        from support.far_worker import FarWorker
        n = 1
        def f(): return n
        with FarWorker() as worker:
            assert worker.call(f) == 1
            child = os.fork()
            if child == 0:
                n = 2
                with FarWorker() as other:
                    os._exit(10 * other.call(f))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            print(worker.call(f))
        """
    )
    assert run(["-c", text], tmp_path) == ["20", "1"]


@pytest.mark.parametrize(
    ("source", "guarded"),
    [
        ('if __name__ == "__main__":\n    pass', True),
        ("if '__main__' == __name__:\n    pass", True),
        ('def f():\n    if __name__ == "__main__": pass', False),
        ("print(__name__)", False),
        ("if True:\n    pass", False),
        ("if __name__ ==", False),
    ],
)
def test_guard(source: str, guarded: bool) -> None:
    assert (_main_guard.guarded(source) is not None) is guarded


def test_names_of_the_guarded_part() -> None:
    source = """
        import a.b as c
        both = 1
        def outside(): inner = 1
        if __name__ == "__main__":
            import os.path, sys as system
            both, (one, *rest) = 2, (3, 4)
            def f(): local = 1
            class C: attribute = 1
            for i in [x for x in rest]: pass
            try: pass
            except OSError as error: pass
        else:
            other = 1
        """
    found = _main_guard.guarded(textwrap.dedent(source))
    assert found is not None
    assert found.names == {"os", "system", "one", "rest", "f", "C", "i", "error"}
    assert found.definitions == (b"C", b"f")
