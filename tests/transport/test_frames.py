"""Frames of the partition protocol are cut out of the stream whatever pieces it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmbus.transport.frames import Frame, FrameError, FrameReader, build_frame
from vmbus.wire.partition import MAX_FRAME, FrameHeader, FrameStatus, Operation

BODIES = st.lists(st.binary(max_size=300), max_size=8)


@settings(deadline=None)
@given(bodies=BODIES, cuts=st.lists(st.integers(1, 50), max_size=60))
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(
        build_frame(Operation.NOTE, body, vp=number, sequence=number) for number, body in enumerate(bodies)
    )
    reader, frames = FrameReader(), []
    for size in [*cuts, len(stream)]:
        frames += reader.feed(stream[:size])
        stream = stream[size:]
    assert frames == [Frame(Operation.NOTE, 0, number, number, body) for number, body in enumerate(bodies)]


@pytest.mark.parametrize("length", [0, 15, MAX_FRAME + 1, 0xFFFFFFFF])
def test_an_impossible_length_ends_the_stream(length: int) -> None:
    header = FrameHeader(length=length, operation=Operation.NOTE).build()
    with pytest.raises(FrameError, match=f"a frame of {length} bytes"):
        FrameReader().feed(header)


def test_a_reply_carries_its_status() -> None:
    (frame,) = FrameReader().feed(build_frame(Operation.HELLO_REPLY, b"", sequence=9, status=FrameStatus.BUSY))
    assert (frame.operation, frame.status, frame.sequence) == (0x8001, 3, 9)
