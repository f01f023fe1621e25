"""What recording costs: the same Linux guest on the same host, with everything recorded and with nothing recorded.

"ours" is with ``--capture`` (every message, signal and ring packet, and 256 bytes of each request's data), "peer" is
the same without, so the ratio is the part of the throughput that stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Row, quick
from benchmarks.two_hosts import Measurement, compare_hosts

DISK_MEBIBYTES = 1024


def rows() -> Iterator[Row]:
    """All measurements, from pairs of runs."""
    seconds = 1 if quick() else 3
    mebibytes = DISK_MEBIBYTES // (8 if quick() else 1)
    measurements = {
        "sequential": Measurement("sequential reads of 1 MiB", "MB/s", "us/MiB", mebibytes),
        "one": Measurement("random reads of 4 KiB, 1 outstanding", "requests/s", "us/request"),
        "many": Measurement("random reads of 4 KiB, 32 outstanding", "requests/s", "us/request"),
        "datagrams": Measurement("datagrams of 64 bytes sent", "packets/s", "us/packet"),
    }
    script = [
        "throughput /dev/sda r 64 1M",
        *[f"@sequential throughput /dev/sda r {mebibytes} 1M"] * 3,
        f"@one iops /dev/sda {seconds} 1 4096 r",
        f"@many iops /dev/sda {seconds} 32 4096 r",
        "ifup eth0 10.7.0.2/24 10.7.0.1",
        f"@datagrams udp-send 10.7.0.1 7 {seconds} 64",
    ]
    yield from compare_hosts(
        measurements,
        script,
        ["--nic", "embedded"],
        lambda directory: ["--capture", str(directory / "capture.pcapng")],
        disk_mebibytes=DISK_MEBIBYTES,
    )
