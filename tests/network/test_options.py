"""``--nic``: what it accepts, and what it says about the rest."""

from __future__ import annotations

import pytest

from vmbus.devices.network import NetworkProvider, NicSpec, device_from, parse_nic_option
from vmbus.devices.network.options import BadNicOption


def test_a_backend_alone_is_enough() -> None:
    assert parse_nic_option("tap:tap0") == NicSpec("tap:tap0")


def test_address_size_and_queues_can_be_said() -> None:
    spec = parse_nic_option("embedded:net=10.1.0.0/24,mac=02:00:00:0a:0b:0C,mtu=9000,queues=4")
    assert spec == NicSpec("embedded:net=10.1.0.0/24", bytes.fromhex("0200000a0b0c"), 9000, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a backend"),
        ("embedded,mac=1", "not an Ethernet address"),
        ("embedded,mac=01:00:00:00:00:00", "multicast"),
        ("embedded,mtu=20", "from 576 to 9202"),
        ("embedded,mtu=x", "from 576 to 9202"),
        ("embedded,queues=0", "from 1 to 64"),
        ("embedded,speed=9", "no option 'speed=9'"),
        ("embedded,mtu", "no option 'mtu'"),
    ],
)
def test_nonsense_gets_one_line(text: str, message: str) -> None:
    with pytest.raises(BadNicOption, match=message) as caught:
        parse_nic_option(text)
    assert "\n" not in str(caught.value)


def test_a_card_is_the_same_in_every_run_and_two_are_not() -> None:
    cards = [device_from(text) for text in ("embedded", "embedded", "none")]
    assert all(isinstance(card, NetworkProvider) for card in cards)
    assert cards[0].instance_id == cards[1].instance_id != cards[2].instance_id
    assert cards[0].card.mac == cards[1].card.mac != cards[2].card.mac
