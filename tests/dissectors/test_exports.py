"""What is taken out of a capture is what went in."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap

from dissectors.engine import Decoded, Session
from dissectors.engine.source import decode_capture
from dissectors.exports.disk import export_disk
from dissectors.exports.ethernet import export_frames
from dissectors.exports.scrub import scrub
from dissectors.exports.sockets import export_sockets
from dissectors.exports.tables import export_json, export_parquet
from dissectors.testing import GUEST, HOST, Script
from vmbus.cli import main
from vmbus.wire import guids, vstor
from vmbus.wire.capture import NoteKind
from vmbus.wire.ring import PipeHeader, PipePacketType
from vmbus.wire.schema import Buffer


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


def test_a_block_that_no_file_has_a_place_for_is_left_out(disk: Script) -> None:
    far = vstor.ScsiRequest(cdb=b"\x8a\0" + b"\x7f" * 8 + b"\0\0\0\1\0\0", cdb_length=16, data_length=512)
    request = vstor.VstorRequest(operation=vstor.VstorOperation.EXECUTE_SRB, body=far)
    disk.packet(GUEST, 3, request, transaction=9, wants_completion=True)
    disk.external(GUEST, 3, b"far out".ljust(512), transaction=9)
    image = io.BytesIO()
    found = export_disk(disk.decode(), image)
    assert (found.requests, found.beyond) == (1, 1) and b"far out" not in image.getvalue()


def test_streams_of_a_socket_are_put_together(script: Script, tmp_path: Path) -> None:
    script.offer(7, guids.vsock_service(22))
    script.open(7)
    for sender, text in ((GUEST, b"hel"), (HOST, b"yes"), (GUEST, b"lo")):
        script.packet(sender, 7, PipeHeader(packet_type=PipePacketType.DATA, length=len(text)).build() + text)
    guest, host = sorted(export_sockets(script.decode(), tmp_path))
    assert (guest.read_bytes(), host.read_bytes()) == (b"hello", b"yes")


def test_no_folder_is_made_for_streams_that_are_not_there(disk: Script, tmp_path: Path) -> None:
    assert export_sockets(disk.decode(), tmp_path / "streams") == []
    assert not (tmp_path / "streams").exists()


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


@pytest.mark.parametrize("words", [["export", "ethernet"], ["export", "json"], ["scrub"]])
def test_a_full_disk_is_told_with_the_file_that_did_not_fit(
    words: list[str], card: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, str(card.write(tmp_path / "card.pcapng")), "/dev/full"]) == 1
    assert capsys.readouterr().err == "vmbus: cannot write /dev/full: No space left on device\n"


def test_several_processes_make_the_same_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = Path(__file__).parents[2] / "captures" / "network-6.12" / "capture.pcapng"
    tables = [tmp_path / "one.parquet", tmp_path / "three.parquet"]
    for table, jobs in zip(tables, "13", strict=True):
        assert main(["export", "parquet", str(capture), str(table), "-Y", "nvsp || control", "--jobs", jobs]) == 0
    one, three = (duckdb.connect().execute(f"FROM '{table}'").fetchall() for table in tables)
    assert one == three and capsys.readouterr().out == f"{len(one)} records\n" * 2


def test_no_records_are_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    assert export_parquet([], path) == 0
    assert duckdb.connect().execute(f"SELECT count(*) FROM '{path}'").fetchone() == (0,)


def test_a_record_with_two_layers_of_a_format_keeps_both_in_its_row(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    capture = Path(__file__).parents[2] / "captures" / "fault-ex-34-short-indication" / "capture.pcapng"
    export_parquet(decode_capture(str(capture)), path)
    query = f"SELECT count(layers->'RndisReceivedMessage'), count(layers->'RndisReceivedMessage 2') FROM '{path}'"
    assert duckdb.connect().execute(query).fetchone() == (1, 1)


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


def test_what_comes_through_a_pipe_is_scrubbed_like_a_file(card: Script, tmp_path: Path) -> None:
    source, one, other = card.write(tmp_path / "a.pcapng"), tmp_path / "b.pcapng", tmp_path / "c.pcapng"
    command = [sys.executable, "-m", "vmbus", "scrub", "-", str(one)]
    told = subprocess.run(command, input=source.read_bytes(), capture_output=True, timeout=120)
    assert told.stdout.decode() == f"{scrub(source, other)} bytes blanked\n" and not told.stderr
    assert one.read_bytes() == other.read_bytes()


def test_a_scrub_that_is_not_finished_leaves_nothing_private(card: Script, tmp_path: Path) -> None:
    card.note("login: root", NoteKind.CONSOLE)
    card.note("the last one")
    source, target = card.write(tmp_path / "a.pcapng"), tmp_path / "b.pcapng"

    class Interrupted(Session):
        def feed_bytes(self, data: Buffer, time_ns: int, number: int | None = None) -> Decoded:
            if number == len(card.records):
                raise KeyboardInterrupt
            return super().feed_bytes(data, time_ns, number)

    with pytest.raises(KeyboardInterrupt):
        scrub(source, target, Interrupted())
    assert b"root" not in target.read_bytes() and target.stat().st_size > 1000
