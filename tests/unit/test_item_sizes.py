"""Items as large as memory: they go through, or put() says that they do not; nothing dies of them."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import freethreading
from support.program import run_program
from support.until import until

MIB, GIB = 1 << 20, 1 << 30
LARGE = pytest.mark.skipif("FT_TEST_LARGE" not in os.environ, reason="takes long: set FT_TEST_LARGE")


@pytest.fixture(autouse=True)
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREETHREADING_BACKEND", "multiprocessing")


def available() -> int:
    """Bytes that the system has to give."""
    table = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(table["MemAvailable"].split()[0]) * 1024


def needs(size: int) -> None:
    if available() < size:
        pytest.skip(f"{size / GIB:.1f} GiB of memory are not available")


def marked(size: int) -> Any:
    """An array whose pages are the kernel's one page of zeros, except its first and last."""
    array = np.zeros(size, np.uint8)
    array[0], array[-1] = 7, 9
    return array


def unbacked(size: int) -> Any:
    """An array of zeros which the kernel has promised no memory."""
    no_reserve = 0x4000  # mmap.MAP_NORESERVE, from Python 3.13 on
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    return np.frombuffer(pages, np.uint8)


def look_at(source: Any, answers: Any) -> None:
    array = source.get()
    array[1] = 8  # it is the worker's own
    answers.put((array.nbytes, array[0], array[1], array[2], array[-1]))


# --- large ----------------------------------------------------------------------------------------------------------


@pytest.mark.watchdog(300)
@pytest.mark.parametrize(
    "size", [2 * GIB + 1, pytest.param(5 * GIB, marks=LARGE)], ids=["more than 2 GiB", "5 GiB"]
)
def test_a_large_array_goes_to_a_worker(size: int) -> None:
    needs(size + 2 * GIB)
    queue: Any = freethreading.SimpleQueue()
    answers: Any = freethreading.SimpleQueue()
    worker = freethreading.Worker(target=look_at, args=(queue, answers))
    worker.start()
    array = marked(size)
    queue.put(array)
    assert answers.get() == (size, 7, 8, 0, 9)
    assert array[1] == 0
    worker.join()
    assert worker.exitcode == 0


@pytest.mark.watchdog(300)
def test_bytes_of_more_than_two_gibibytes() -> None:
    size = 2 * GIB + 1
    needs(2 * size + GIB)
    queue: Any = freethreading.SimpleQueue()
    queue.put(bytes(size))
    item = queue.get()
    assert (type(item), len(item), item[0], item[-1]) == (bytes, size, 0, 0)


# --- larger than what there is ----------------------------------------------------------------------------------------


def test_an_item_larger_than_all_that_is_free_is_a_memory_error() -> None:
    queue: Any = freethreading.Queue()
    queue.put("before")
    lazy = unbacked(available() + 64 * GIB)
    with pytest.raises(MemoryError):
        queue.put(lazy)
    with pytest.raises(MemoryError) as caught:
        queue.put_many(["between", lazy, "after"])
    assert caught.value.put_count == 1  # type: ignore[attr-defined]
    queue.put("after")
    assert [queue.get() for _ in range(3)] == ["before", "between", "after"]


FILL = """
    import numpy as np
    import freethreading
    from freethreading import _core

    MIB = 1 << 20
    queue = freethreading.Queue()

    def fill(size):
        lazy = np.zeros(size, np.uint8)
        for count in range(10_000):
            try:
                queue.put(lazy)
            except MemoryError:
                return count
        raise AssertionError("there is no end of it")

    def empty(count, size):
        for _ in range(count):
            assert queue.get().nbytes == size
"""

LIMIT = 192 * MIB


class Group:
    """A control group with a limit to its memory."""

    def __init__(self, folder: Path, unified: bool) -> None:
        self.folder = folder
        folder.mkdir()
        try:
            (folder / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(LIMIT))
            swap = folder / ("memory.swap.max" if unified else "memory.memsw.limit_in_bytes")
            if swap.exists():
                swap.write_text("0" if unified else str(LIMIT))
        except OSError:
            folder.rmdir()
            raise

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        joins = f"import os; open({str(self.folder / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        return run_program(joins + textwrap.dedent(code), "multiprocessing")


@pytest.fixture
def group() -> Iterator[Group]:
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    try:
        made = Group((root if unified else root / "memory") / f"freethreading-test-{os.getpid()}", unified)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield made
    # A group with processes in it stays: the program's supervisor may still be on its way out.
    until(lambda: not (made.folder / "cgroup.procs").read_text(), "the group is empty")
    made.folder.rmdir()


def test_the_limit_of_a_control_group_is_a_memory_error(group: Group) -> None:
    result = group.run(
        FILL
        + """
    first = fill(16 * MIB)
    assert 3 <= first <= 12, first
    queue.put("small")
    empty(first, 16 * MIB)
    assert queue.get() == "small"
    again = fill(16 * MIB)
    assert abs(again - first) <= 2, (first, again)
    empty(again, 16 * MIB)
    assert fill(512 * MIB) == 0
    """
    )
    assert result.returncode == 0, result


# --- /dev/shm, descriptors --------------------------------------------------------------------------------------------


MOUNTS = {
    "missing": "mount --bind /proc/self/fdinfo /dev/shm",  # a folder in which no file can be made
    "of 64 KB": "mount -t tmpfs -o size=64k none /dev/shm",
    "full": "mount -t tmpfs -o size=64k none /dev/shm; if head -c 1M /dev/zero 2>/dev/null > /dev/shm/full; then exit 7; fi",
    "read-only": "mount -t tmpfs -o ro none /dev/shm",
}


@pytest.mark.parametrize("how", MOUNTS)
def test_dev_shm_does_not_matter(how: str) -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this user cannot make a mount namespace")
    program = textwrap.dedent(
        FILL
        + """
    worker = freethreading.Worker(target=queue.put, args=(np.ones(32 * MIB, np.uint8),))
    worker.start()
    assert queue.get().all()
    worker.join()
    array = freethreading.shared_array((1000,), "float64")
    array[:] = 1
    assert array.sum() == 1000
    """
    )
    result = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'set -e; {MOUNTS[how]}; exec "$@"',
            "sh",
            sys.executable,
            "-c",
            program,
        ],
        env={**os.environ, "FREETHREADING_BACKEND": "multiprocessing"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result


def test_no_descriptor_is_needed_for_an_item() -> None:
    result = run_program(
        FILL
        + """
    import resource

    worker = freethreading.Worker(target=queue.put, args=("opens the session",))
    worker.start()
    assert queue.get() == "opens the session"
    worker.join()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    for size in (10, 1 * MIB, 256 * MIB):
        for _ in range(3):
            queue.put(np.ones(size, np.uint8))
            assert queue.get().nbytes == size
    queue.put_many(range(1000))
    assert queue.get_many(1000) == list(range(1000))
    """,
        "multiprocessing",
    )
    assert result.returncode == 0, result
