"""What recording costs: the same Linux guest on the same host, with everything recorded and with nothing recorded.

"ours" is with ``--capture`` (every message, signal and ring packet, and 256 bytes of each request's data), "peer" is
the same without, so the ratio is the part of the throughput that stays. The two run in turn; the disk is a sparse
file, so that the host and not a disk is measured.
"""

from __future__ import annotations

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

MEASUREMENTS = {
    "sequential": ("sequential reads of 1 MiB", "MB/s"),
    "one": ("random reads of 4 KiB, 1 outstanding", "requests/s"),
    "many": ("random reads of 4 KiB, 32 outstanding", "requests/s"),
    "datagrams": ("datagrams of 64 bytes sent", "packets/s"),
}


class GuestFailed(VmbusError):
    """The guest did not do what it was told to."""


def rows() -> Iterator[Row]:
    """All measurements, from pairs of runs."""
    kernel = build_kernel(DEFAULT_VERSION, Variant.PLAIN)
    recorded: dict[str, list[float]] = {name: [] for name in MEASUREMENTS}
    plain: dict[str, list[float]] = {name: [] for name in MEASUREMENTS}
    with tempfile.TemporaryDirectory(prefix="vmbus-bench-") as name:
        directory = Path(name)
        with (directory / "disk.img").open("wb") as disk:
            disk.truncate(DISK_MEBIBYTES << 20)
        for repetition in range(1 if quick() else REPETITIONS):
            order = [(recorded, True), (plain, False)]
            for results, with_capture in order if repetition % 2 else reversed(order):
                for measurement, value in _run(directory, kernel, with_capture).items():
                    results[measurement].append(value)
    for measurement, (title, unit) in MEASUREMENTS.items():
        yield row(title, unit, recorded[measurement], plain[measurement])


def _script() -> list[str]:
    seconds = 1 if quick() else 3
    sequential = f"throughput /dev/sda r {DISK_MEBIBYTES // (8 if quick() else 1)} 1M"
    return [
        "throughput /dev/sda r 64 1M",
        *[f"@sequential {sequential}"] * 3,
        f"@one iops /dev/sda {seconds} 1 4096 r",
        f"@many iops /dev/sda {seconds} 32 4096 r",
        "ifup eth0 10.7.0.2/24 10.7.0.1",
        f"@datagrams udp-send 10.7.0.1 7 {seconds} 64",
    ]


def _run(directory: Path, kernel: Path, with_capture: bool) -> dict[str, float]:
    address = f"unix:{directory / 'bus'}"
    command = [sys.executable, "-m", "vmbus", "host", address, "--scsi", str(directory / "disk.img")]
    command += ["--nic", "embedded"]
    if with_capture:
        command += ["--capture", str(directory / "capture.pcapng")]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None
            host.stdout.readline()
            with LinuxGuest(GuestOptions(address, kernel, script=_script()), on_console_line=lines.append) as guest:
                status = guest.wait(120)
        finally:
            host.terminate()
    found: dict[str, list[float]] = {}
    for line in lines:
        match = _RESULT.search(line)
        if match:
            found.setdefault(match[1], []).append(float(match[2]))
    missing = MEASUREMENTS.keys() - found.keys()
    if missing:
        told = " / ".join(line for line in lines if line.startswith("TEST"))
        raise GuestFailed(f"the guest ended with status {status} and did not measure {', '.join(missing)}: {told}")
    return {name: statistics.median(found[name]) for name in MEASUREMENTS}
