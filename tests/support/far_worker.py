"""Two halves of a program for tests of what travels: a program calls functions in a fresh interpreter, over pipes.

What crosses is what freethreading._serialize and _main_module make; only the log of definitions lies in a file, so
that these tests need no session.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from freethreading import _core, _main_definitions, _main_module, _serialize

_SIZE = struct.Struct("<Q")


class FileLog:
    """A BlobLog in a file: entries after one another, each with its size."""

    sizes: list[int]

    def __init__(self) -> None:
        descriptor, path = tempfile.mkstemp()
        os.close(descriptor)
        self.handle = path.encode()
        self.sizes = []

    @classmethod
    def open(cls, handle: bytes) -> FileLog:
        log = cls.__new__(cls)
        log.handle = handle
        log.sizes = []
        return log

    def append(self, entry: bytes) -> int:
        with Path(self.handle.decode()).open("ab") as file:
            file.write(_SIZE.pack(len(entry)) + entry)
        self.sizes.append(len(entry))
        return len(self.sizes)

    def read_after(self, number: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        with Path(self.handle.decode()).open("rb") as file:
            while head := file.read(_SIZE.size):
                found.append((len(found) + 1, file.read(_SIZE.unpack(head)[0])))
        return found[number:]


def use_file_log() -> None:
    _core.BlobLog = FileLog  # type: ignore[misc,assignment]
    _main_definitions._MAX_INSIDE = sys.maxsize  # nothing in shared memory


def _send(pipe: BinaryIO, data: bytes) -> None:
    pipe.write(_SIZE.pack(len(data)) + data)
    pipe.flush()


def _receive(pipe: BinaryIO) -> bytes:
    head = pipe.read(_SIZE.size)
    if not head:
        raise EOFError("the other half is gone")
    return pipe.read(_SIZE.unpack(head)[0])


class FarWorker:
    """A fresh interpreter with this program's ``__main__``, made as a worker's is."""

    def __init__(self) -> None:
        use_file_log()
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from support.far_worker import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdout, self._process.stdin
        _send(self._out, pickle.dumps(_main_module.plan()))

    def call(self, func: Any, *args: Any) -> Any:
        self.bytes_sent = self._send_call((func, args))
        data = _receive(self._in)
        if data[:1] == b"!":
            raise _serialize.load_exception(data[1:])
        return _serialize.loads(data[1:])

    def _send_call(self, call: Any) -> int:
        data = _serialize.dumps(call, where="args").data
        _send(self._out, data)
        return len(data)

    def close(self) -> None:
        self._out.close()
        self._process.wait()
        self._in.close()

    def __enter__(self) -> FarWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve() -> None:
    """The worker's half; its standard output is the pipe, so what tasks print goes to standard error."""
    use_file_log()
    there, back = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _main_module.install(pickle.loads(_receive(there)))
    while True:
        try:
            data = _receive(there)
        except EOFError:
            return
        try:
            func, args = _serialize.loads(data)
            answer = b"=" + _serialize.dumps(func(*args)).data
        except Exception as error:
            answer = b"!" + _serialize.dump_exception(error)
        _send(back, answer)
