"""Reading captures: our index, lines and filters against tshark, scapy and dpkt, on one capture of a real Linux guest.

The index is measured on a million records (50,000 in a short run), what needs the Lua dissector on 50,000, because it
takes long. "bare" is tshark without a dissector of ours, printing its one line for each; "with the dissector" is tshark
with the Lua dissector that is generated from the same declarations. Commands include starting Python and tshark. "In
the UI" is a filter over a capture that is indexed already; tshark has no index and reads the file again.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scapy.utils import RawPcapNgReader

from benchmarks.harness import Row, chosen, compare, quick, row
from benchmarks.traffic import capture_of
from dissectors.engine.archive import Archive
from dissectors.filters import Filter
from dissectors.wireshark.lua import dissector
from vmbus.capture.store import CaptureStore

LONG = 1_000_000
SHORT = 50_000
INDEX_FILTER = "channel.id == 2 && kind == packet"
INDEX_FILTER_OF_TSHARK = "vmbus.capture.packet_record.channel_id == 2 && vmbus.ring.packet_descriptor.packet_type"
TREE_FILTER = "vstor.cdb.opcode == WRITE_10 && latency > 2ms"
TREE_FILTER_OF_TSHARK = "vmbus.scsi.transfer10.opcode == 0x2a"

Action = Callable[[Path], object]


def rows() -> Iterator[Row]:
    """All measurements."""
    path = capture_of(SHORT if quick() else LONG)
    for name, peer, repetitions in (
        ("index, tshark bare", _tshark, 5),
        ("index, scapy RawPcapNgReader", _scapy, 3),
        ("index, dpkt", _dpkt(), 3),
    ):
        if chosen(name) and peer is not None:
            yield compare(name, "records/s", _rate(path, _index), _rate(path, peer), repetitions=repetitions)
    if chosen("memory of the index"):
        memory = _memory(path, len(_indexed(path)))
        yield row("memory of the index, against 48 bytes", "bytes/record", [memory], [48.0], higher_is_better=False)
    path = capture_of(SHORT)
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "vmbus.lua"
        script.write_text(dissector(), encoding="utf-8")
        lua = ("-X", f"lua_script:{script}")
        for name, ours, options in (
            ("one line each, tshark with the dissector", _vmbus("read", "--jobs", "1"), ()),
            ("one line each, --jobs 2, tshark with the dissector", _vmbus("read", "--jobs", "2"), ()),
            ("vmbus stats, tshark -z", _vmbus("stats"), ("-q", "-z", "io,stat,1")),
            ("read -Y on columns, tshark -Y", _vmbus("read", "-Y", INDEX_FILTER), ("-Y", INDEX_FILTER_OF_TSHARK)),
            ("read -Y on fields, tshark -Y", _vmbus("read", "-Y", TREE_FILTER), ("-Y", TREE_FILTER_OF_TSHARK)),
            ("filter on columns in the UI, tshark -Y", _filter(path, INDEX_FILTER), ("-Y", INDEX_FILTER_OF_TSHARK)),
        ):
            if chosen(name):
                peer = _rate(path, lambda path, options=options: _tshark(path, *lua, *options))
                yield compare(name, "records/s", _rate(path, ours), peer, repetitions=3)


def _rate(path: Path, action: Action) -> Callable[[], float]:
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


def _vmbus(*arguments: str) -> Action:
    command, *options = arguments
    return lambda path: _run([sys.executable, "-m", "vmbus", command, str(path), *options])


def _filter(path: Path, text: str) -> Action:
    """A filter over an archive, as the UI has one."""
    store = _indexed(path)
    archive = Archive(store)
    while archive.update():
        pass
    wanted = Filter(text)

    def search(_: Path) -> None:
        for first in range(0, len(archive), 1 << 13):
            wanted.narrow(archive.span(first, min(first + (1 << 13), len(archive))))

    return search


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
