"""Builds a C++ kernel at its first use and keeps it: seconds once per machine, source and version of torch."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent / "cpu"
FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "--param=avoid-fma-max-bits=0",
    "-fopenmp",
    "-fPIC",
    "-shared",
)
"""No -ffast-math: it would drop NaN, and at link time flush denormal numbers for the whole process. Without
avoid-fma-max-bits=0, GCC rounds some products before it adds them, for some CPUs: equal sums could differ."""


class BuildError(RuntimeError):
    """A kernel can't be built here; the message says why."""


@cache
def load(name: str) -> None:
    """Make the ops of `cpu/<name>.cpp` known to torch, building them if this machine hasn't yet.

    Raises:
        BuildError: no compiler, or one that refuses the source.
    """
    library = cache_folder() / f"{name}-{build_id(name)}.so"
    if not library.exists():
        with _locked(library.with_suffix(".lock")):
            if not library.exists():  # another process may have built it while this one waited
                _build(name, library)
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise BuildError(f"{library} can't be loaded ({error}): delete it to have it built anew") from error


def cache_folder() -> Path:
    """Where built kernels are kept: `TORCH_EXTENSIONS_DIR` or the user's cache folder."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "memnets"


def build_id(name: str) -> str:
    """Return torch's version and a hash of all else a build depends on: sources, flags, CPU and CXX.

    The CPU counts as -march=native code of one is an illegal instruction on another, and caches are shared.
    """
    sources = [SOURCES / f"{name}.cpp", *sorted(SOURCES.glob("*.h"))]
    parts = [*(path.read_text() for path in sources), *_flags(), _cpu(), os.environ.get("CXX", "")]
    return f"torch{torch.__version__}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def _build(name: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        # Built aside and moved, so that a process that is killed leaves no half of a library behind.
        made = Path(folder) / library.name
        source = str(SOURCES / f"{name}.cpp")
        command = [_compiler(), *_flags(), source, "-o", str(made), *_torch_arguments()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{command[0]} refused {name}.cpp: {_first_error(done.stderr)}")
        os.replace(made, library)


def _first_error(output: str) -> str:
    errors = [line for line in output.splitlines() if "error" in line]
    return (errors or output.splitlines() or ["no message"])[0]


def _compiler() -> str:
    for name in filter(None, (os.environ.get("CXX"), "g++", "c++", "clang++")):
        if found := shutil.which(name):
            return found
    raise BuildError("no C++ compiler was found: install g++, or set CXX")


def _flags() -> tuple[str, ...]:
    wide = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
    return FLAGS + wide


def _torch_arguments() -> list[str]:
    root = Path(torch.__file__).parent
    include = [root / "include", root / "include" / "torch" / "csrc" / "api" / "include"]
    return [
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(part for path in include for part in ("-isystem", str(path))),
        f"-L{root / 'lib'}",
        "-ltorch_cpu",
        "-lc10",
    ]


@cache
def _cpu() -> str:
    """Return what tells CPUs apart: the instruction sets they have, or their name where those aren't listed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    flags = [line for line in lines if line.split(":")[0].strip().lower() in ("flags", "features")]
    return flags[0] if flags else platform.machine()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise BuildError(f"{path.parent} can't be written ({error}): set TORCH_EXTENSIONS_DIR") from error
    with file:
        if sys.stderr.isatty():
            print(f"memnets: building a kernel in {path.parent}; this takes seconds, once", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
