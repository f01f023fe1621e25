"""What all benchmarks share: interleaved repetitions, medians, one row per measurement.

A benchmark is a module of this package with ``rows()``, a generator of :class:`Row`. Ours and the peer's are measured
in turn in one run, because the machine is not the same from one minute to the next.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. A higher ratio is better for ours, whatever the unit."""

    name: str
    unit: str
    ours: float
    peer: float | None
    ratio: float | None


def quick() -> bool:
    """Whether a short run is wanted (``VMBUS_BENCH_QUICK=1``), to see that a benchmark works."""
    return os.environ.get("VMBUS_BENCH_QUICK", "0") not in ("", "0")


def chosen(name: str) -> bool:
    """Whether a row is wanted: all are, unless ``VMBUS_BENCH_ONLY`` holds parts of names, separated by commas."""
    only = os.environ.get("VMBUS_BENCH_ONLY", "")
    return not only or any(part in name for part in only.split(","))


def compare(
    name: str,
    unit: str,
    ours: Callable[[], float],
    peer: Callable[[], float] | None,
    *,
    higher_is_better: bool = True,
    repetitions: int = 5,
) -> Row:
    """Measure both in turn, ``repetitions`` times, and return the medians and their ratio."""
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(1 if quick() else int(os.environ.get("VMBUS_BENCH_REPEAT", repetitions))):
        mine.append(ours())
        if peer is not None:
            theirs.append(peer())
    return row(name, unit, mine, theirs, higher_is_better=higher_is_better)


def row(name: str, unit: str, ours: list[float], peer: list[float], *, higher_is_better: bool = True) -> Row:
    """Make a row of two series."""
    a = statistics.median(ours)
    if not peer:
        return Row(name, unit, a, None, None)
    b = statistics.median(peer)
    over, under = (a, b) if higher_is_better else (b, a)
    return Row(name, unit, a, b, over / under if under else None)


def names() -> list[str]:
    """The benchmarks there are: the modules of this package with ``rows``."""
    here = Path(__file__).parent
    return sorted(
        path.stem for path in here.glob("*.py") if not path.stem.startswith("_") and "\ndef rows(" in path.read_text()
    )


def run(name: str, *, as_json: bool) -> None:
    """Run one benchmark and print its rows as they come."""
    rows: Iterator[Row] = import_module(f"benchmarks.{name}").rows()
    if not as_json:
        print(f"{name}: {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}")
        print(f"{'measurement':<58} {'unit':<16} {'ours':>11} {'peer':>11} {'ratio':>7}")
    for one in rows:
        if as_json:
            print(json.dumps(asdict(one)), flush=True)
        else:
            print(
                f"{one.name:<58} {one.unit:<16} {_show(one.ours):>11} {_show(one.peer):>11} {_show(one.ratio):>7}",
                flush=True,
            )


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 10000 else f"{value:.0f}"
