"""The dissector and the extcap are found by Wireshark once they are installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dissectors.testing import Script
from dissectors.wireshark import extcap
from dissectors.wireshark.install import install, uninstall

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    install()
    return tmp_path


def tshark(*arguments: str) -> str:
    return subprocess.run(["tshark", *arguments], capture_output=True, text=True, timeout=60, check=True).stdout


@needs_tshark
@pytest.mark.tshark
def test_tshark_decodes_and_filters_with_the_installed_dissector(home: Path, disk: Script) -> None:
    path = disk.write(home / "disk.pcapng")
    lines = tshark("-r", str(path), "-Y", "vmbus.scsi.transfer10.lba == 2048", "-T", "fields", "-e", "frame.number")
    assert lines.split() == ["10"]


@needs_tshark
@pytest.mark.tshark
def test_tshark_hands_ethernet_frames_to_its_own_dissectors(home: Path, card: Script) -> None:
    path = card.write(home / "card.pcapng")
    lines = tshark("-r", str(path), "-Y", "arp.opcode == 1", "-T", "fields", "-e", "arp.dst.proto_ipv4")
    assert lines.split() == ["10.0.0.2", "10.0.0.2"]


@needs_tshark
@pytest.mark.tshark
def test_tshark_lists_the_extcap_among_its_interfaces(home: Path) -> None:
    assert "VMBus of a running host" in tshark("-D")


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
