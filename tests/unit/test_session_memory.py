"""The memory that processes share: what is gone is given back, what does not fit is an error."""

from __future__ import annotations

from support.program import run_program

PREPARE = """
    import resource
    import time
    from freethreading import Queue, Worker, _core

    MEBIBYTE = 1 << 20
    ITEMS = 4

    def file_bytes():
        return _core.session_usage()["file_bytes"]

    def fill_and_empty(queue):
        for number in range(ITEMS):
            queue.put(bytes([number]) * (32 * MEBIBYTE))
        assert file_bytes() >= ITEMS * 32 * MEBIBYTE
        for number in range(ITEMS):
            item = queue.get()
            assert len(item) == 32 * MEBIBYTE and item[-1] == number
        del item

    def until_given_back():
        deadline = time.monotonic() + 40
        while file_bytes() > 8 * MEBIBYTE:
            assert time.monotonic() < deadline, file_bytes()
            time.sleep(0.05)

    def expect_memory_error(queue):
        queue.put("a small one")
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 * MEBIBYTE, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        for _ in range(3):
            try:
                queue.put(bytes(32 * MEBIBYTE))
            except MemoryError:
                pass
            else:
                raise AssertionError("it fitted")
        assert queue.get() == "a small one"
        queue.put(list(range(1000)))
        assert queue.get() == list(range(1000))

    queue = Queue()
"""


def passes(code: str) -> None:
    result = run_program(PREPARE + code, "multiprocessing")
    assert result.returncode == 0, result.stderr


def test_what_does_not_fit_is_a_memory_error() -> None:
    passes("""
    expect_memory_error(queue)
    """)


def test_idle_memory_is_given_back() -> None:
    passes("""
    worker = Worker(target=queue.put, args=("from a worker",))
    worker.start()
    assert queue.get() == "from a worker"
    worker.join()
    fill_and_empty(queue)
    until_given_back()
    fill_and_empty(queue)
    until_given_back()
    expect_memory_error(queue)
    """)
