"""Fails when an arrow of the architecture points the wrong way, or when a test is in no target.

usage: python tools/layers.py [ROOT]

The layers, from the top: python (src/freethreading) -> binding -> core -> core/src/os. What each may see:

* core/src/os    system headers and the C++ standard library; the only place with system headers or `#ifdef __linux__`
* core           the C++ standard library, core/include, its own src; never Python.h
* binding        Python.h (the only place), core/include; never core/src, never system headers
* python         the standard library, cloudpickle, the package itself; never a test, a tool or a benchmark
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.MULTILINE)
PLATFORM = re.compile(r"^\s*#\s*if.*__linux__", re.MULTILINE)
CPP_STANDARD = re.compile(r"^[a-z_]+$")  # <atomic>, <cstdint>: no suffix, no folder
PYTHON_HEADERS = {"Python.h", "structmember.h"}
OPTIONAL_PACKAGES = {"cloudpickle", "numpy", "threadpoolctl", "rich"}
MAX_LINES = 600


def cpp_files(folder: Path) -> Iterator[Path]:
    for pattern in ("*.hpp", "*.cpp", "*.h"):
        yield from sorted(folder.rglob(pattern))


def check_cpp(root: Path) -> Iterator[str]:
    core, binding = root / "core", root / "binding"
    for path in [*cpp_files(core), *cpp_files(binding)]:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(root)
        in_core = core in path.parents
        in_tests = in_core and path.relative_to(core).parts[0] in {"tests", "benchmarks", "examples"}
        in_os = core / "src" / "os" in path.parents
        public = core / "include" in path.parents
        if not in_os and not in_tests and PLATFORM.search(text):
            yield f"{name}: platform conditional outside core/src/os"
        for bracket, header in INCLUDE.findall(text):
            python_header = header in PYTHON_HEADERS
            if in_core and python_header:
                yield f"{name}: the core knows nothing of Python, but includes {header}"
            elif (
                bracket == "<"
                and not in_os
                and not in_tests
                and not python_header
                and not CPP_STANDARD.match(header)
            ):
                yield f"{name}: system header <{header}> outside core/src/os"
            if not in_core and bracket == '"' and header.startswith(("os/", "src/", "../core")):
                yield f"{name}: the binding sees core/include only, but includes {header}"
            if public and bracket == '"' and not header.startswith("freethreading/"):
                yield f"{name}: a public header includes the private {header}"


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module


def check_python(root: Path) -> Iterator[str]:
    allowed = (
        set(sys.stdlib_module_names) | OPTIONAL_PACKAGES | {"freethreading", "_typeshed", "typing_extensions"}
    )
    package = root / "src" / "freethreading"
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.pyi")]):
        for line, module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
            if module.partition(".")[0] not in allowed:
                yield f"{path.relative_to(root)}:{line}: imports {module}, which is neither standard nor declared"


def check_tests(root: Path) -> Iterator[str]:
    tests = root / "core" / "tests"
    for path in sorted(tests.rglob("*.cpp")):
        if len(path.relative_to(tests).parts) != 2:
            yield f"{path.relative_to(root)}: in no test target (targets are core/tests/<folder>/*.cpp)"
    for path in sorted((root / "tests").rglob("*.py")):
        has_tests = re.search(r"^\s*(async )?def test_", path.read_text(encoding="utf-8"), re.MULTILINE)
        if has_tests and not path.name.startswith("test_"):
            yield f"{path.relative_to(root)}: has tests, but pytest collects test_*.py only"


def check_sizes(root: Path) -> Iterator[str]:
    for folder in ("core", "binding", "src", "tests", "tools", "benchmarks", "examples"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in {".py", ".pyi", ".cpp", ".hpp"}:
                lines = path.read_text(encoding="utf-8").count("\n")
                if lines > MAX_LINES:
                    yield f"{path.relative_to(root)}: {lines} lines, past the wall of {MAX_LINES}"


def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    faults = [fault for check in (check_cpp, check_python, check_tests, check_sizes) for fault in check(root)]
    for fault in faults:
        print(fault)
    print(f"layers: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
