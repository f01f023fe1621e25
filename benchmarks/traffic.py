"""A large capture of a real Linux guest, made once and kept in the user's cache: what decoding is measured on."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from vmbus.capture.store import CaptureStore
from vmbus.errors import VmbusError
from vmbus.linux.build import Variant, build_kernel
from vmbus.linux.cache import cache_directory
from vmbus.linux.launch import GuestOptions, LinuxGuest
from vmbus.linux.source import DEFAULT_VERSION

DISK_MEBIBYTES = 256


class NoTraffic(VmbusError):
    """The guest did not make as many records as were wanted."""


def capture_of(records: int) -> Path:
    """A capture of at least ``records`` records: random and sequential disk requests, a TCP stream, datagrams."""
    path = cache_directory("benchmarks") / f"records-{records}.pcapng"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            _record(records, unfinished)
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def _record(records: int, path: Path) -> None:
    kernel = build_kernel(DEFAULT_VERSION, Variant.PLAIN)
    rounds = 10_000
    script = ["ifup eth0 10.7.0.2/24 10.7.0.1"]
    for seed in range(rounds):
        script += [
            "iops /dev/sda 1 32 4096 r",
            "iops /dev/sda 1 4 8192 w",
            "throughput /dev/sda r 64 1M",
            f"stream-echo tcp:10.7.0.1:7 4M {seed}",
            "udp-send 10.7.0.1 7 0.2 64",
        ]
    with tempfile.TemporaryDirectory(prefix="vmbus-bench-") as name:
        directory = Path(name)
        with (directory / "disk.img").open("wb") as disk:
            disk.truncate(DISK_MEBIBYTES << 20)
        address = f"unix:{directory / 'bus'}"
        command = [sys.executable, "-m", "vmbus", "host", address, "--scsi", str(directory / "disk.img")]
        command += ["--nic", "embedded", "--capture", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
            try:
                assert host.stdout is not None
                host.stdout.readline()
                with LinuxGuest(GuestOptions(address, kernel, script=script)) as guest:
                    _wait_for(path, records, guest)
            finally:
                host.terminate()


def _wait_for(path: Path, records: int, guest: LinuxGuest) -> None:
    store = CaptureStore.open(path)
    while len(store) < records:
        store.update()
        try:
            status = guest.wait(0.5)
        except VmbusError:
            continue
        raise NoTraffic(f"the guest ended with status {status} after {len(store)} of {records} records")
    guest.kill()
