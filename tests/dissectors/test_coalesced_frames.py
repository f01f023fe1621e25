"""A frame that came in several suballocations is one frame again: in exports, in Wireshark, and blanked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import rdpcap

from dissectors.conversations import frames
from dissectors.exports.ethernet import export_frames
from dissectors.exports.scrub import scrub
from dissectors.testing import HOST, Script
from dissectors.wireshark.install import install
from vmbus.wire.rndis import RndisMessageType, RndisReceivedPacket, build_message
from vmbus.wire.rndis_ppi import PacketId, PacketIdFlags, PerPacketInfo, PpiType

SECRET = b"somebody's own business. " * 180
WHOLE = bytes(Ether(dst="00:15:5d:0a:0b:0c", src="02:00:00:00:00:01") / IP() / TCP(dport=5000) / SECRET)
SMALL = bytes(Ether(dst="00:15:5d:0a:0b:0c", src="02:00:00:00:00:01") / IP() / TCP(dport=5001))


def piece(data: bytes, place: PacketIdFlags) -> bytes:
    value = PacketId(flags=PacketIdFlags.MULTI_SUBALLOCATION | place)
    item = PerPacketInfo(info_type=PpiType.PACKET_ID, value=value)
    body = RndisReceivedPacket(
        data_offset=52,
        data_length=len(data),
        per_packet_info_offset=36,
        per_packet_info_length=16,
        per_packet_info=(item,),
        frame=data,
    )
    return build_message(RndisMessageType.PACKET, body)


@pytest.fixture
def coalesced(card: Script) -> Script:
    """The card again, that at last receives a frame of three pieces and a small one in one packet."""
    first, last = PacketIdFlags.FIRST_FRAGMENT, PacketIdFlags.LAST_FRAGMENT
    small = build_message(RndisMessageType.PACKET, RndisReceivedPacket(data_length=len(SMALL), frame=SMALL))
    message = (
        piece(WHOLE[:1514], first)
        + piece(WHOLE[1514:3028], PacketIdFlags(0))
        + piece(WHOLE[3028:], last)
        + small
    )  # fmt: skip
    card.external(HOST, 4, message, transaction=102)
    return card


def test_the_pieces_are_one_frame_in_the_conversation_and_in_an_export(coalesced: Script, tmp_path: Path) -> None:
    assert [(found.data, found.length) for found in list(frames(coalesced.decode()))[-2:]] == [
        (WHOLE, len(WHOLE)),
        (SMALL, len(SMALL)),
    ]
    path = tmp_path / "frames.pcapng"
    with path.open("wb") as file:
        assert export_frames(coalesced.decode(), file) == 4
    assert [bytes(packet) for packet in rdpcap(str(path))][-2:] == [WHOLE, SMALL]


def test_a_frame_whose_pieces_were_cut_keeps_its_length_and_what_lies_before_the_cut(card: Script) -> None:
    message = piece(WHOLE[:1514], PacketIdFlags.FIRST_FRAGMENT) + piece(WHOLE[1514:], PacketIdFlags.LAST_FRAGMENT)
    card.external(HOST, 4, message[:2000], transaction=102, total=len(message))
    last = list(frames(card.decode()))[-1]
    assert last.length == len(WHOLE) and WHOLE.startswith(last.data) and 1514 < len(last.data) < 2000


def test_nothing_of_any_piece_is_left_by_scrubbing(coalesced: Script, tmp_path: Path) -> None:
    source, target = coalesced.write(tmp_path / "whole.pcapng"), tmp_path / "blank.pcapng"
    assert scrub(source, target) > len(WHOLE)
    assert b"somebody" in source.read_bytes() and b"business" not in target.read_bytes()


@pytest.mark.tshark
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_dissects_the_whole_frame(coalesced: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    install()
    path = coalesced.write(tmp_path / "card.pcapng")
    command = ["tshark", "-r", str(path), "-Y", "tcp", "-T", "fields", "-e", "tcp.dstport", "-e", "tcp.len"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert found.split() == ["5000,5001", f"{len(SECRET)},0"]
