"""Reading captures: our index, lines and filters against tshark, scapy and dpkt, on one capture of a real Linux guest.

The index is measured on a million records (50,000 in a short run), what needs the Lua dissector on 50,000, because it
takes long. "bare" is tshark without a dissector of ours, printing its one line for each; "with the dissector" is tshark
with the Lua dissector that is generated from the same declarations. The filter is over two fields of a capture that
is indexed already, as it is in the UI; tshark has no index and reads the file again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scapy.utils import RawPcapNgReader

from benchmarks.harness import Row, compare, quick, row
from benchmarks.traffic import capture_of
from dissectors.wireshark.lua import dissector
from vmbus.capture.store import CaptureStore
from vmbus.ring.packet import GPA_DIRECT
from vmbus.wire.capture import RecordKind

LONG = 1_000_000
SHORT = 50_000
FILTER = "vmbus.capture.packet_record.channel_id == 1 && vmbus.ring.packet_descriptor.packet_type == 9"


def rows() -> Iterator[Row]:
    """All measurements."""
    path = capture_of(SHORT if quick() else LONG)
    index = _rate(path, _index)
    yield compare("index, tshark bare", "records/s", index, _rate(path, _tshark))
    yield compare("index, scapy RawPcapNgReader", "records/s", index, _rate(path, _scapy), repetitions=3)
    dpkt = _dpkt()
    if dpkt is not None:
        yield compare("index, dpkt", "records/s", index, _rate(path, dpkt), repetitions=3)
    memory = _memory(path, len(_indexed(path)))
    yield row("memory of the index, against 48 bytes", "bytes/record", [memory], [48.0], higher_is_better=False)
    path = capture_of(SHORT)
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "vmbus.lua"
        script.write_text(dissector(), encoding="utf-8")
        lua = ("-X", f"lua_script:{script}")
        yield compare(
            "one line each, tshark with the dissector",
            "records/s",
            _rate(path, lambda path: _run([sys.executable, "-m", "vmbus", "read", str(path)])),
            _rate(path, lambda path: _tshark(path, *lua)),
            repetitions=3,
        )
        yield compare(
            "vmbus stats, tshark -z with the dissector",
            "records/s",
            _rate(path, lambda path: _run([sys.executable, "-m", "vmbus", "stats", str(path)])),
            _rate(path, lambda path: _tshark(path, *lua, "-q", "-z", "io,stat,1")),
            repetitions=3,
        )
        store = _indexed(path)
        yield compare(
            "filter on two fields, tshark -Y with the dissector",
            "records/s",
            _rate(path, lambda _: _filter(store)),
            _rate(path, lambda path: _tshark(path, *lua, "-Y", FILTER)),
            repetitions=3,
        )


def _rate(path: Path, action: Callable[[Path], object]) -> Callable[[], float]:
    """Measures how many records of the capture an action gets over in a second."""
    count = len(_indexed(path))
    return lambda: count / _seconds(lambda: action(path))


def _indexed(path: Path) -> CaptureStore:
    store = CaptureStore.open(path)
    store.update(final=True)
    return store


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def _tshark(path: Path, *options: str) -> None:
    _run(["tshark", *options, "-r", str(path)])


def _index(path: Path) -> None:
    _indexed(path).close()


def _scapy(path: Path) -> None:
    with RawPcapNgReader(str(path)) as reader:
        for _ in reader:
            pass


def _dpkt() -> Callable[[Path], None] | None:
    try:
        from dpkt.pcapng import Reader
    except ImportError:
        return None

    def read(path: Path) -> None:
        with path.open("rb") as file:
            for _ in Reader(file):
                pass

    return read


def _filter(store: CaptureStore) -> None:
    columns = store.columns
    np.flatnonzero((columns.kind == RecordKind.PACKET) & (columns.channel == 1) & (columns.subtype == GPA_DIRECT))


def _memory(path: Path, count: int) -> float:
    """Bytes of each record in a process that indexes the capture, without what numpy and the mapped file take."""
    program = (
        "import sys\n"
        "from vmbus.capture.store import CaptureStore\n"
        "store = CaptureStore.open(sys.argv[1])\n"
        "anonymous = lambda: next(int(line.split()[1]) for line in open('/proc/self/status') if 'RssAnon' in line)\n"
        "before = anonymous()\n"
        "store.update(final=True)\n"
        "print((anonymous() - before) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout) / count
