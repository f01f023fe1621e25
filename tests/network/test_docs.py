"""What docs/network.md shows works as it stands there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmbus.devices.network import Backend
from vmbus.testing.network import Wire
from vmbus.testing.raw_card import RawCard, frame_message

MakeWire = Callable[..., Wire]
DOCUMENT = Path(__file__).parents[2] / "docs" / "network.md"


def test_the_mirror_sends_frames_back(make_wire: MakeWire) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    scope: dict[str, Any] = {"Backend": Backend}
    exec(blocks[0], scope)
    mac = bytes.fromhex("00155d0a0b0c")
    card = RawCard(make_wire(scope["Mirror"]())).bring_up()
    card.messages.clear()
    card.rndis(frame_message(b"\2\0\0\0\0\1" + mac + b"\x08\x00" + bytes(46)), section=1)
    assert card.messages[0].endswith(mac + b"\2\0\0\0\0\1" + b"\x08\x00" + bytes(46))


def test_the_card_pings_and_streams(wire: Wire) -> None:
    card = wire.card()
    assert card.ping("10.7.0.1") < 30
    assert card.connect("10.7.0.1", 7).exchange(b"hello") == b"hello"
