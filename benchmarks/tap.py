"""What recording costs: the same Linux guest on the same host, with everything recorded and with nothing recorded.

"ours" is with ``--capture`` (every message, signal and ring packet, and 256 bytes of each request's data), "peer" is
the same without, so the ratio is the part of the throughput that stays. The two run in turn; the disk is a sparse
file, so that the host and not a disk is measured. Throughput depends on what else the machine does; the processor time
that the host's process takes for the same work does so less, and is measured beside it.
"""

from __future__ import annotations

import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row, quick, row
from vmbus.errors import VmbusError
from vmbus.linux.build import Variant, build_kernel
from vmbus.linux.launch import GuestOptions, LinuxGuest
from vmbus.linux.source import DEFAULT_VERSION

DISK_MEBIBYTES = 1024
REPETITIONS = 5
_RESULT = re.compile(r"TEST (\S+) ok .*?(?:mb_per_s|iops|pps)=([0-9.]+)")
_WORK = re.compile(r"(?:requests|packets)=([0-9]+)")

MEASUREMENTS = {
    "sequential": ("sequential reads of 1 MiB", "MB/s", "us/MiB"),
    "one": ("random reads of 4 KiB, 1 outstanding", "requests/s", "us/request"),
    "many": ("random reads of 4 KiB, 32 outstanding", "requests/s", "us/request"),
    "datagrams": ("datagrams of 64 bytes sent", "packets/s", "us/packet"),
}


class Series:
    """What was measured in all runs of one kind: rates, and the host's processor time for each piece of work."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {name: [] for name in MEASUREMENTS}
        self.times: dict[str, list[float]] = {name: [] for name in MEASUREMENTS}


class GuestFailed(VmbusError):
    """The guest did not do what it was told to."""


def rows() -> Iterator[Row]:
    """All measurements, from pairs of runs."""
    kernel = build_kernel(DEFAULT_VERSION, Variant.PLAIN)
    recorded, plain = Series(), Series()
    with tempfile.TemporaryDirectory(prefix="vmbus-bench-") as name:
        directory = Path(name)
        with (directory / "disk.img").open("wb") as disk:
            disk.truncate(DISK_MEBIBYTES << 20)
        for repetition in range(1 if quick() else REPETITIONS):
            order = [(recorded, True), (plain, False)]
            for series, with_capture in order if repetition % 2 else reversed(order):
                _run(directory, kernel, with_capture, series)
    for measurement, (title, unit, _) in MEASUREMENTS.items():
        yield row(title, unit, recorded.rates[measurement], plain.rates[measurement])
    for measurement, (title, _, unit) in MEASUREMENTS.items():
        times = recorded.times[measurement], plain.times[measurement]
        yield row(f"{title}, host's processor time", unit, *times, higher_is_better=False)


def _sequential_mebibytes() -> int:
    return DISK_MEBIBYTES // (8 if quick() else 1)


def _script() -> list[str]:
    seconds = 1 if quick() else 3
    sequential = f"throughput /dev/sda r {_sequential_mebibytes()} 1M"
    return [
        "throughput /dev/sda r 64 1M",
        *[f"@sequential {sequential}"] * 3,
        f"@one iops /dev/sda {seconds} 1 4096 r",
        f"@many iops /dev/sda {seconds} 32 4096 r",
        "ifup eth0 10.7.0.2/24 10.7.0.1",
        f"@datagrams udp-send 10.7.0.1 7 {seconds} 64",
    ]


def _run(directory: Path, kernel: Path, with_capture: bool, series: Series) -> None:
    """One host and one guest, from boot to power-off."""
    address = f"unix:{directory / 'bus'}"
    command = [sys.executable, "-m", "vmbus", "host", address, "--scsi", str(directory / "disk.img")]
    command += ["--nic", "embedded"]
    if with_capture:
        command += ["--capture", str(directory / "capture.pcapng")]
    results: list[tuple[str, float]] = []

    def on_line(line: str) -> None:
        if line.startswith("TEST"):
            results.append((line, _processor_seconds(host.pid)))

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None
            host.stdout.readline()
            with LinuxGuest(GuestOptions(address, kernel, script=_script()), on_console_line=on_line) as guest:
                status = guest.wait(180)
        finally:
            host.terminate()
    rates: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    for (_, before), (line, after) in itertools.pairwise(results):
        match = _RESULT.search(line)
        if match:
            counted = _WORK.search(line)
            work = float(counted[1]) if counted else _sequential_mebibytes()
            rates.setdefault(match[1], []).append(float(match[2]))
            times.setdefault(match[1], []).append((after - before) * 1e6 / work)
    missing = MEASUREMENTS.keys() - rates.keys()
    if missing:
        told = " / ".join(line for line, _ in results)
        raise GuestFailed(f"the guest ended with status {status} and did not measure {', '.join(missing)}: {told}")
    for name in MEASUREMENTS:
        series.rates[name].append(statistics.median(rates[name]))
        series.times[name].append(statistics.median(times[name]))


def _processor_seconds(pid: int) -> float:
    """What a process has used so far, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
