"""Rings to test with, over both implementations of the port."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from vmbus import native
from vmbus.memory import GuestMemory
from vmbus.ring import IncomingRing, OutgoingRing, RingMemory


class Ends(NamedTuple):
    """Both ends of one ring, and its memory."""

    outgoing: OutgoingRing
    incoming: IncomingRing
    memory: RingMemory


@pytest.fixture(params=["python", "native"])
def pure(request: pytest.FixtureRequest) -> bool:
    if request.param == "native" and native.extension is None:
        pytest.skip("the C extension is not built, or not wanted")
    return bool(request.param == "python")


@pytest.fixture(params=["flat", "mirrored"])
def make_ends(request: pytest.FixtureRequest, pure: bool) -> Callable[..., Ends]:
    """Make a ring of so many bytes that starts at some position."""

    def make(size: int = 4096, position: int = 0) -> Ends:
        if request.param == "flat":
            memory = RingMemory.private(size)
        else:
            pages = guest.map_pages(range(1, 2 + size // 4096), mirrored_from=1)
            memory = RingMemory.from_view(pages.view, mirrored=True)
        memory.words[0] = memory.words[1] = position
        return Ends(OutgoingRing(memory, pure=pure), IncomingRing(memory, pure=pure), memory)

    guest = GuestMemory.create(1 << 20)
    return make


@pytest.fixture
def ends(make_ends: Callable[..., Ends]) -> Ends:
    return make_ends()
