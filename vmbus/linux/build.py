"""Build the guest's kernel: source, shim and configuration in, one static binary out, kept in the user's cache.

Debian's sources and tarballs are built once for each combination of source, shim and configuration. A tree of one's own
is built incrementally each time: an edited driver costs about fifteen seconds.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vmbus.linux.cache import cache_directory, content_key, file_key, locked, write_if_changed
from vmbus.linux.errors import BuildFailed
from vmbus.linux.source import DEFAULT_VERSION, KernelSource, find_source
from vmbus.linux.tools import KERNEL_TOOLS, require, start_tool
from vmbus.linux.worktree import prepare, shim_files

CONFIG = Path(__file__).parent / "config"
_USUAL_STEPS = 1320
"""Lines that make prints in a full build; only the progress display depends on it."""


class Variant(StrEnum):
    """What the kernel is built for; each has its own objects."""

    PLAIN = "plain"
    GDB = "gdb"
    """With line numbers."""
    DEBUG = "debug"
    """With KASAN and lockdep, and line numbers."""
    BENCH = "bench"
    """With User-Mode Linux' own network device, for ``benchmarks.network``."""

    @property
    def fragments(self) -> list[Path]:
        """The configuration: fragments over ``allnoconfig``, later ones winning."""
        extra = [] if self is Variant.PLAIN else [CONFIG / f"{self.value}.config"]
        return [CONFIG / "guest.config", *extra]


@dataclass(frozen=True)
class Progress:
    """How far a build is: ``done`` of about ``expected`` steps, and what it is doing."""

    done: int
    expected: int
    what: str


Report = Callable[[Progress], None]


def build_kernel(
    spec: str = DEFAULT_VERSION,
    variant: Variant = Variant.PLAIN,
    *,
    jobs: int | None = None,
    report: Report = lambda progress: None,
) -> Path:
    """The path of the kernel binary that ``spec`` (see :func:`find_source`) and ``variant`` ask for, built if need be.

    ``jobs`` is make's ``-j``, by default one for each processor. Raises a ``LinuxGuestError``.
    """
    source = find_source(spec)
    if not source.is_tree:
        binary = _cached(source, variant)
        if binary.is_file():
            return binary
    require(KERNEL_TOOLS, "building a kernel")
    worktree = cache_directory("trees") / f"{source.name}-{_source_key(source)}"
    objects = worktree.with_name(f"{worktree.name}-{variant}")
    with locked(objects):
        if not source.is_tree and binary.is_file():  # another process built it while this one waited
            return binary
        report(Progress(0, _USUAL_STEPS, f"preparing the source of {source.name}"))
        with locked(worktree):  # no longer: other variants may be built from it at the same time
            prepare(source, worktree)
        built = _make(worktree, objects, variant, jobs or os.cpu_count() or 1, report)
        return built if source.is_tree else _keep(built, binary)


def _source_key(source: KernelSource) -> str:
    return hashlib.sha256(os.fsencode(source.path)).hexdigest()[:16] if source.is_tree else file_key(source.path)


def _cached(source: KernelSource, variant: Variant) -> Path:
    pieces = [(fragment.name, fragment.read_bytes()) for fragment in variant.fragments]
    pieces += [("source", file_key(source.path).encode()), *shim_files().items()]
    return cache_directory("kernels") / f"linux-{source.name}-{variant}-{content_key(pieces)}"


def _keep(built: Path, binary: Path) -> Path:
    temporary = binary.with_name(f"{binary.name}.{os.getpid()}")
    shutil.copyfile(built, temporary)
    temporary.chmod(0o755)
    temporary.replace(binary)
    return binary


def _make(worktree: Path, objects: Path, variant: Variant, jobs: int, report: Report) -> Path:
    objects.mkdir(exist_ok=True)
    fragment = objects / "vmbus.config"
    changed = write_if_changed(fragment, b"".join(path.read_bytes() for path in variant.fragments))
    command = ["make", "-C", str(worktree), f"O={objects}", "ARCH=um"]
    log = objects / "vmbus-build.log"
    log.unlink(missing_ok=True)
    if changed or not (objects / ".config").is_file():
        _run([*command, f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig"], log, lambda line: None)
    done = 0

    def step(line: str) -> None:
        nonlocal done
        if match := re.match(r"^  ([A-Z]+)\s+(\S+)", line):
            done += 1
            report(Progress(done, max(_USUAL_STEPS, done), f"{match[1]} {match[2]}"))

    _run([*command, f"-j{jobs}", "linux"], log, step)
    return objects / "linux"


def _run(command: list[str], log: Path, step: Callable[[str], None]) -> None:
    """Run make, its output to ``log`` and line by line to ``step``; raises ``BuildFailed`` with the first error."""
    first_error = ""
    with (
        log.open("a", buffering=1) as file,
        start_tool(command, KBUILD_BUILD_USER="vmbus", KBUILD_BUILD_HOST="vmbus") as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            step(line)
            if not first_error and re.search(r"\berror: |undefined reference|\*\*\* ", line):
                first_error = line.strip()
    if process.returncode:
        raise BuildFailed(f"the kernel does not build: {first_error or 'make failed'} (the whole log: {log})")
