"""The dissector and the extcap are found by Wireshark once they are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from dissectors.testing import GUEST, HOST, Script
from dissectors.wireshark import extcap
from dissectors.wireshark.install import install, uninstall
from vmbus.wire import rndis
from vmbus.wire.hypervisor import Msr

StartHost = Callable[..., AbstractContextManager[str]]
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    install()
    return tmp_path


def tshark(*arguments: str) -> str:
    return subprocess.run(["tshark", *arguments], capture_output=True, text=True, timeout=180, check=True).stdout


@needs_tshark
@pytest.mark.tshark
def test_tshark_decodes_and_filters_with_the_installed_dissector(home: Path, disk: Script) -> None:
    path = disk.write(home / "disk.pcapng")
    lines = tshark("-r", str(path), "-Y", "vmbus.scsi.transfer10.lba == 2048", "-T", "fields", "-e", "frame.number")
    assert lines.split() == ["10"]


@needs_tshark
@pytest.mark.tshark
def test_a_frame_that_the_snap_length_cut_is_said_to_be_cut_and_not_malformed(home: Path, card: Script) -> None:
    frame = bytes(Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(dport=80, flags="A") / bytes(400))
    message = rndis.build_message(
        rndis.RndisMessageType.PACKET, rndis.RndisReceivedPacket(data_length=len(frame), frame=frame)
    )
    number = card.external(HOST, 4, message[:160], transaction=102, total=len(message))
    path = str(card.write(home / "capture.pcapng"))
    fields = ["-T", "fields", "-e", "frame.number", "-e", "tcp.len", "-e", "_ws.expert.message"]
    line = f"{number}\t400\tCut short by the snap length: 160 of {len(message)} bytes recorded"
    assert tshark("-r", path, "-Y", "vmbus.snapped", *fields).splitlines() == [line]
    assert tshark("-r", path, "-Y", "vmbus.malformed || _ws.malformed") == ""
    assert card.decode()[-1].is_cut and card.decode()[-1].problems == []


@needs_tshark
@pytest.mark.tshark
def test_tshark_hands_ethernet_frames_to_its_own_dissectors(home: Path, card: Script) -> None:
    path = card.write(home / "card.pcapng")
    lines = tshark("-r", str(path), "-Y", "arp.opcode == 1", "-T", "fields", "-e", "arp.dst.proto_ipv4")
    assert lines.split() == ["10.0.0.2", "10.0.0.2"]


@needs_tshark
@pytest.mark.tshark
def test_a_line_of_the_list_says_who_told_whom_what(home: Path, disk: Script) -> None:
    columns = ("_ws.col.Source", "_ws.col.Destination", "_ws.col.Protocol", "_ws.col.Info")
    asked = [word for column in columns for word in ("-e", column)]
    disk.signal(GUEST, 3)
    disk.register(Msr.SIMP, 1)
    told = tshark("-r", str(disk.write(home / "disk.pcapng")), "-T", "fields", "-E", "separator=|", *asked)
    lines = told.splitlines()
    assert "guest|host|VMBus/scsi|channel 3: GPA_DIRECT EXECUTE_SRB READ_10" in lines
    assert "host|guest|VMBus/scsi|channel 3: 4096 bytes" in lines
    assert "host|guest|VMBus/scsi|channel 3: COMPLETION COMPLETE_IO SUCCESS for READ_10" in lines
    assert "host|guest|VMBus/control|channel 3: OFFER_CHANNEL" in lines
    assert "guest|host|VMBus/scsi|channel 3: signal" in lines and "guest|host|VMBus/control|register SIMP" in lines


@needs_tshark
@pytest.mark.tshark
def test_tshark_lists_the_extcap_among_its_interfaces(home: Path) -> None:
    assert "VMBus of a running host" in tshark("-D")


@needs_tshark
@pytest.mark.tshark
def test_tshark_captures_live_from_a_running_host(home: Path, start_host: StartHost) -> None:
    stream = f"unix:{home}/stream"
    (home / "disk.img").write_bytes(bytes(1 << 20))
    with start_host(home, "--scsi", str(home / "disk.img"), "--stream", stream) as address:
        guest = subprocess.Popen(
            [sys.executable, "-m", "vmbus", "guest", "run", "--python", address, "--timeout", "170", "--pause", "0.05"]
        )
        try:
            options = ("-o", f"extcap.vmbus.stream:{stream}", "-c", "200", "-a", "duration:120")
            lines = tshark("-i", "vmbus", *options, "-Y", "vmbus.vstor.vstor_request.operation == 3")
        finally:
            guest.kill()
            guest.wait()
    assert "VMBus/scsi" in lines


@needs_tshark
@pytest.mark.tshark
def test_a_live_stream_goes_through_a_pipe_into_tshark(home: Path, disk: Script) -> None:
    path = disk.write(home / "disk.pcapng")
    capture = subprocess.Popen([sys.executable, "-m", "vmbus", "capture", str(path), "-w", "-"], stdout=subprocess.PIPE)
    command = ["tshark", "-r", "-", "-Y", "vmbus.scsi.transfer10"]
    done = subprocess.run(command, stdin=capture.stdout, capture_output=True, text=True, timeout=180, check=True)
    capture.wait(60)
    assert len(done.stdout.splitlines()) == 1


def test_uninstalling_removes_what_was_installed(home: Path) -> None:
    assert len(uninstall()) == 2
    assert uninstall() == []


def test_the_extcap_copies_a_stream_into_the_fifo(tmp_path: Path, disk: Script) -> None:
    stream, fifo = disk.write(tmp_path / "stream.pcapng"), tmp_path / "fifo"
    assert extcap.main(["--capture", "--fifo", str(fifo), "--stream", str(stream)]) == 0
    assert fifo.read_bytes() == stream.read_bytes()


def test_the_extcap_says_in_one_line_that_there_is_no_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extcap.main(["--capture", "--fifo", str(tmp_path / "f"), "--stream", "unix:/nowhere"]) == 1
    assert capsys.readouterr().err.startswith("vmbus: cannot read unix:/nowhere: ")
