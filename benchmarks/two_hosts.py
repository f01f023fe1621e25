"""The same Linux guest at work on two hosts of ours that differ in one option: what the option costs.

The two run in turn, and each measurement is the median of its run. Throughput depends on what else the machine does;
the processor time that the host's process takes for the same work does so less, and is measured beside it.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness import Row, quick, row
from vmbus.errors import VmbusError
from vmbus.linux.build import Variant, build_kernel
from vmbus.linux.launch import GuestOptions, LinuxGuest
from vmbus.linux.source import DEFAULT_VERSION

REPETITIONS = 5
_RESULT = re.compile(r"TEST (\S+) ok .*?(?:mb_per_s|iops|pps)=([0-9.]+)")
_WORK = re.compile(r"(?:requests|packets)=([0-9]+)")


class Measurement(NamedTuple):
    """One labelled line of the guest's script, and what it says."""

    title: str
    unit: str
    time_unit: str
    work: float = 0.0
    """Pieces of work, where the guest does not say how many."""


class GuestFailed(VmbusError):
    """The guest did not do what it was told to."""


class Series:
    """What was measured in all runs of one kind: rates, and the host's processor time for each piece of work."""

    def __init__(self, names: Sequence[str]) -> None:
        self.rates: dict[str, list[float]] = {name: [] for name in names}
        self.times: dict[str, list[float]] = {name: [] for name in names}


def compare_hosts(
    measurements: Mapping[str, Measurement],
    script: Sequence[str],
    devices: Sequence[str],
    option: Callable[[Path], list[str]],
    *,
    disk_mebibytes: int,
) -> Iterator[Row]:
    """Rows of hosts with ``option`` ("ours") and without ("peer").

    ``devices`` are the options that both have besides a disk, a sparse file, so that the host and not a disk is
    measured; ``option`` gets a directory for files.
    """
    kernel = build_kernel(DEFAULT_VERSION, Variant.PLAIN)
    ours, peer = Series(list(measurements)), Series(list(measurements))
    with tempfile.TemporaryDirectory(prefix="vmbus-bench-") as name:
        directory = Path(name)
        with (directory / "disk.img").open("wb") as disk:
            disk.truncate(disk_mebibytes << 20)
        common = ["--scsi", str(directory / "disk.img"), *devices]
        for repetition in range(1 if quick() else REPETITIONS):
            order = [(ours, [*common, *option(directory)]), (peer, common)]
            for series, options in order if repetition % 2 else reversed(order):
                _run(directory, kernel, options, script, measurements, series)
    for label, one in measurements.items():
        yield row(one.title, one.unit, ours.rates[label], peer.rates[label])
    for label, one in measurements.items():
        times = ours.times[label], peer.times[label]
        yield row(f"{one.title}, host's processor time", one.time_unit, *times, higher_is_better=False)


def _run(
    directory: Path,
    kernel: Path,
    options: Sequence[str],
    script: Sequence[str],
    measurements: Mapping[str, Measurement],
    series: Series,
) -> None:
    """One host and one guest, from boot to power-off."""
    address = f"unix:{directory / 'bus'}"
    command = [sys.executable, "-m", "vmbus", "host", address, *options]
    results: list[tuple[str, float]] = []

    def on_line(line: str) -> None:
        if line.startswith("TEST"):
            results.append((line, _processor_seconds(host.pid)))

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None
            host.stdout.readline()
            with LinuxGuest(GuestOptions(address, kernel, script=script), on_console_line=on_line) as guest:
                status = guest.wait(180)
        finally:
            host.terminate()
    rates: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for (_, before), (line, after) in itertools.pairwise(results):
        match = _RESULT.search(line)
        if match and match[1] in measurements:
            counted = _WORK.search(line)
            work = float(counted[1]) if counted else measurements[match[1]].work
            rates.setdefault(match[1], []).append(float(match[2]))
            times.setdefault(match[1], []).append((after - before) * 1e6 / work)
    missing = measurements.keys() - rates.keys()
    if missing:
        told = " / ".join(line for line, _ in results)
        raise GuestFailed(f"the guest ended with status {status} and did not measure {', '.join(missing)}: {told}")
    for name in measurements:
        series.rates[name].append(statistics.median(rates[name]))
        series.times[name].append(statistics.median(times[name]))


def _processor_seconds(pid: int) -> float:
    """What a process has used so far, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
