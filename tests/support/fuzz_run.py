"""Has the decoders decode mutated bytes, round after round, in a process of its own that may crash. Started by tools/fuzz.

The same seed makes the same bytes. What the process is about to decode stands in a file that outlives it: a failure is told
with the bytes that it took.
"""

from __future__ import annotations

import argparse
import faulthandler
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

NOTE_BYTES = 1 << 20
SANITIZERS = {
    # An allocation that is out of proportion to its input is a failure, too.
    "ASAN_OPTIONS": "detect_leaks=0:max_allocation_size_mb=64:quarantine_size_mb=16:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "PYTHONMALLOC": "malloc",  # so that each object has a block of its own
}


class Note:
    """What is being decoded: a decoder's name, and the bytes."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), NOTE_BYTES)

    def write(self, name: str, data: bytes) -> None:
        text = b"%d %s\n%s" % (len(data), name.encode(), data)
        self._memory[: len(text)] = text

    def read(self) -> tuple[str, bytes]:
        size, name = self._memory.readline().split(maxsplit=1)
        return name.decode().strip(), self._memory.read(int(size))


def decode_all(arguments: argparse.Namespace) -> None:
    """The process that may crash, the only one that has the sanitizers."""
    from support.fuzzing import Decoders, expect

    faulthandler.enable()
    note = Note(arguments.note)
    decoders = Decoders()
    if arguments.input is not None:
        note.write(arguments.decoder, arguments.input)
        print("accepted" if decoders.attempt(arguments.decoder, arguments.input) else "refused")
        return
    names = [arguments.decoder] if arguments.decoder else list(decoders.names)
    accepted: Counter[str] = Counter()
    end = time.monotonic() + arguments.seconds
    rounds = 0
    while rounds < arguments.rounds if arguments.rounds else time.monotonic() < end:
        name = names[rounds % len(names)]
        random = Random(f"{arguments.seed}/{rounds}")
        kind = random.randrange(16)
        if kind == 0:
            data = random.randbytes(random.randrange(200))
        else:
            data = decoders.original(name, random) if kind == 1 else decoders.mutant(name, random)
        note.write(name, data)
        took = decoders.attempt(name, data)
        expect(took or kind != 1 or name in ("bomb", "slots"), "valid bytes were refused")
        accepted[name] += took
        rounds += 1
    told = ", ".join(f"{name} {accepted[name]}" for name in names)
    print(f"{rounds} rounds; of the bytes these were accepted: {told}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/fuzz", description="Decodes mutated bytes under sanitizers.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--rounds", type=int, help="how many inputs, however long it takes")
    parser.add_argument(
        "--seed", type=int, default=SystemRandom().randrange(1 << 32), help="makes the same inputs again"
    )
    parser.add_argument("--decoder", help="only this one")
    parser.add_argument("--input", type=bytes.fromhex, help="only these bytes, in hex, by --decoder")
    parser.add_argument("--preload", default="", help=argparse.SUPPRESS)
    parser.add_argument("--note", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.input is not None and not arguments.decoder:
        parser.error("--input needs --decoder")
    if arguments.note is not None:
        decode_all(arguments)
        return 0
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "note")
        path.write_bytes(bytes(NOTE_BYTES))
        environment = {**os.environ, **SANITIZERS, "LD_PRELOAD": arguments.preload}
        # The last one counts.
        command = [
            sys.executable,
            "-m",
            "support.fuzz_run",
            *sys.argv[1:],
            f"--seed={arguments.seed}",
            f"--note={path}",
        ]
        limit = None if arguments.rounds else arguments.seconds + 60
        try:
            code = subprocess.run(command, env=environment, check=False, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            code = -9
        if code == 0:
            return 0
        memory = path.read_bytes()
        if not memory[0]:
            print(f"FAILED (exit {code}) before anything was decoded")
            return 1
        name, data = Note(path).read()
    print(
        f"FAILED (exit {code}) with seed {arguments.seed}; again:\ntools/fuzz --decoder '{name}' --input '{data.hex()}'"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
