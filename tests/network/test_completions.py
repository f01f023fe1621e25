"""Completions of a busy guest's sends come together, and none is forgotten."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from vmbus.devices.network import NetworkProvider
from vmbus.devices.network.queue import MOST_HELD
from vmbus.testing.kept_frames import KeptFrames
from vmbus.testing.network import Wire
from vmbus.testing.raw_card import RawCard, frame_message
from vmbus.wire.nvsp import ChannelType

MAC = bytes.fromhex("00155d0a0b0c")
FRAME = MAC + bytes(6) + b"\x08\x00" + bytes(50)
LONG = 10e6


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawCard]:
    """A card that is up and that has its ring watched, because it has just been busy."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    wire = Wire(NetworkProvider(KeptFrames(), mac=MAC), spin_microseconds=LONG)
    card = RawCard(wire, send_pages=128).bring_up()
    card.completions.clear()
    yield card
    wire.shut()


def send(card: RawCard, count: int) -> list[int]:
    message = frame_message(FRAME)
    return [card.rndis(message, section=section, channel_type=ChannelType.DATA) for section in range(count)]


def backend(card: RawCard) -> KeptFrames:
    assert isinstance(card.wire.provider.backend, KeptFrames)
    return card.wire.provider.backend


def test_completions_of_frames_wait_for_each_other(card: RawCard) -> None:
    sent = send(card, MOST_HELD - 1)
    assert len(backend(card).frames) == MOST_HELD - 1 and not card.completions
    sent += send(card, 1)
    assert list(card.completions) == sent


def test_what_is_sent_to_the_guest_takes_them_along(card: RawCard) -> None:
    sent = send(card, 3)
    deliver = backend(card).deliver
    assert deliver is not None and deliver([FRAME]) == 1
    card.pair.pump()
    assert list(card.completions) == sent


def test_a_control_message_does_not_wait(card: RawCard) -> None:
    sent = send(card, 3)
    card.set_filter(0)
    assert list(card.completions)[:3] == sent and len(card.completions) == 4


def test_none_waits_longer_than_the_ring_is_watched(card: RawCard) -> None:
    sent = send(card, 3)
    card.pair.host.rest()
    card.pair.pump()
    assert list(card.completions) == sent


def test_a_host_that_stops_leaves_them_to_the_next_one(card: RawCard) -> None:
    sent = send(card, 3)
    card.wire.provider.save()
    assert [packet[2] for packet in card.pair.host.unsent] == sent
