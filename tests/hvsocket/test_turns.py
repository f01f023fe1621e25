"""A guest's requests for sockets take turns at the host."""

from __future__ import annotations

from collections import Counter
from uuid import UUID

import pytest

from vmbus.devices.hvsocket.relay import MAX_REQUESTS, VsockRelay, _Wish
from vmbus.testing.vsock import VsockPair
from vmbus.testing.waiting import until
from vmbus.wire.hvsocket import service_of_port


def test_so_many_requests_are_carried_out_in_one_turn_and_all_of_them_in_some(
    joined: VsockPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = 3 * MAX_REQUESTS - 2  # a listener takes one or two at once
    turns: list[int] = []
    tried: Counter[UUID] = Counter()
    ask_again, settle = VsockRelay._ask_again, VsockRelay._settle

    def turn(relay: VsockRelay) -> None:
        if len(relay._wishes) >= waiting:
            turns.append(0)
        ask_again(relay)

    def counted(relay: VsockRelay, wish: _Wish) -> bool:
        if turns:
            turns[-1] += 1
            tried[wish.endpoint_id] += 1
        return settle(relay, wish)

    monkeypatch.setattr(VsockRelay, "_ask_again", turn)
    monkeypatch.setattr(VsockRelay, "_settle", counted)
    with joined.listen(20, backlog=0):
        for number in range(3 * MAX_REQUESTS):
            joined.pair.guest.bus.connect_socket(service_of_port(20), service_of_port(0x9000_0000 + number))
        joined.pair.guest.loop.run_once()
        assert until(lambda: len(turns) > 7)
    assert max(turns) == MAX_REQUESTS and len(tried) >= waiting
    assert max(tried.values()) - min(tried.values()) <= 2


def test_requests_of_a_guest_that_died_are_forgotten(joined: VsockPair) -> None:
    def waiting() -> int:
        return int(joined.pair.in_host(joined.relay.inspect)["guest_waits_for"])

    with joined.listen(20, backlog=0):
        for number in range(4):
            joined.pair.guest.bus.connect_socket(service_of_port(20), service_of_port(0x9000_0000 + number))
        assert joined.pair.guest.loop.run(lambda: waiting() > 0, timeout=60)
        joined.pair.guest.close()
        joined.pair.new_guest().boot()
        assert waiting() == 0
