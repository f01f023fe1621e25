"""What is taken out of a capture is what went in."""

from __future__ import annotations

import io
import json
from pathlib import Path

import duckdb
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap

from dissectors.engine.source import decode_capture
from dissectors.exports.disk import export_disk
from dissectors.exports.ethernet import export_frames
from dissectors.exports.scrub import scrub
from dissectors.exports.sockets import export_sockets
from dissectors.exports.tables import export_json, export_parquet
from dissectors.testing import GUEST, HOST, Script
from vmbus.wire import guids
from vmbus.wire.capture import NoteKind
from vmbus.wire.ring import PipeHeader, PipePacketType


def test_ethernet_frames_become_an_ordinary_capture(card: Script, tmp_path: Path) -> None:
    path = tmp_path / "frames.pcapng"
    with path.open("wb") as file:
        assert export_frames(card.decode(), file) == 2
    first, second = rdpcap(str(path))
    assert first[Ether].src == "00:15:5d:01:02:03" and first[ARP].pdst == "10.0.0.2"
    assert bytes(first) == bytes(second)


def test_blocks_of_a_disk_lie_at_their_places(disk: Script) -> None:
    image = io.BytesIO()
    found = export_disk(disk.decode(), image)
    assert (found.requests, found.size, found.cut) == (1, 256, 1)
    assert len(image.getvalue()) == 2048 * 512 + 256


def test_streams_of_a_socket_are_put_together(script: Script, tmp_path: Path) -> None:
    script.offer(7, guids.vsock_service(22))
    script.open(7)
    for sender, text in ((GUEST, b"hel"), (HOST, b"yes"), (GUEST, b"lo")):
        script.packet(sender, 7, PipeHeader(packet_type=PipePacketType.DATA, length=len(text)).build() + text)
    guest, host = sorted(export_sockets(script.decode(), tmp_path))
    assert (guest.read_bytes(), host.read_bytes()) == (b"hello", b"yes")


def test_both_streams_of_a_real_socket_are_whole(tmp_path: Path) -> None:
    capture = Path(__file__).parents[2] / "captures" / "hvsocket-6.12" / "capture.pcapng"
    guest, host = export_sockets(decode_capture(str(capture)), tmp_path)
    assert guest.read_bytes() == host.read_bytes() and guest.stat().st_size == 3000


def test_records_become_lines_of_json(disk: Script) -> None:
    target = io.StringIO()
    assert export_json(disk.decode(), target) == len(disk.records)
    last = json.loads(target.getvalue().splitlines()[-1])
    assert last["request"] == 16 and last["layers"][2]["ScsiCompletion"]["result"]["scsi_status"]["value"] == 2


def test_records_become_rows_of_parquet(disk: Script, tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    assert export_parquet(disk.decode(), path) == len(disk.records)
    query = f"SELECT count(*), max(latency_ns) FROM '{path}' WHERE device = 'scsi' AND request IS NOT NULL"
    assert duckdb.connect().execute(query).fetchone() == (6, 2000)


def test_a_scrubbed_capture_keeps_its_structure_and_no_payload(card: Script, tmp_path: Path) -> None:
    card.note("login: root", NoteKind.CONSOLE)
    source, target = card.write(tmp_path / "a.pcapng"), tmp_path / "b.pcapng"
    assert scrub(source, target) > 100
    assert target.stat().st_size == source.stat().st_size
    before, after = (list(decode_capture(str(path))) for path in (source, target))
    assert [item.protocol for item in before] == [item.protocol for item in after]
    assert [item.latency_ns for item in before] == [item.latency_ns for item in after]
    assert bytes.fromhex("00155d010203") * 1 not in b"".join(
        bytes(item.data) for item in after if "PACKET 0" in item.summary
    )
    assert b"root" not in target.read_bytes() and b"login" in source.read_bytes()
