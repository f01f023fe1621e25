"""A peer that writes anything anywhere: the ring answers with a RingError or with data, and with nothing else."""

from __future__ import annotations

import random
import struct

import pytest

from vmbus.ring import IN_BAND, IncomingRing, OutgoingRing, RingError, RingFull, RingMemory

ROUNDS = 3000


def hostile_index(rng):
    return rng.choice([rng.randrange(0, 8192, 8), rng.randrange(1 << 32), 4096, 4088, 0, 0xFFFFFFFF])


def hostile_descriptor(rng):
    return struct.pack(
        "<HHHHQ",
        rng.choice([6, 6, 7, 9, 11, rng.randrange(1 << 16)]),
        rng.choice([2, 2, 3, rng.randrange(8), rng.randrange(1 << 16)]),
        rng.choice([2, 3, rng.randrange(512), rng.randrange(1 << 16)]),
        rng.choice([0, 1, rng.randrange(1 << 16)]),
        rng.getrandbits(64),
    )


def scribble(rng, memory):
    """Change what the other end may change, and what it must not as well."""
    for _ in range(rng.randrange(4)):
        memory.words[rng.choice([0, 0, 1, 2, 3, 16])] = hostile_index(rng)
    offset = rng.choice([memory.words[1] % 4096 & ~7, rng.randrange(0, 4080, 8)])
    memory.write(offset, hostile_descriptor(rng))


@pytest.mark.parametrize("seed", range(8))
def test_nothing_but_ring_errors_comes_of_a_hostile_peer(make_ends, pure, seed):
    rng = random.Random(seed)
    memory = make_ends().memory
    memory.write(0, rng.randbytes(4096))
    incoming, outgoing = IncomingRing(memory, pure=pure), OutgoingRing(memory, pure=pure)
    errors = packets = 0
    for _ in range(ROUNDS):
        scribble(rng, memory)
        try:
            packets += len(incoming.read_batch(rng.randrange(66)))
            incoming.peek()
            incoming.commit()
            if not incoming.unmask_interrupts():
                incoming.verify_unmasked()
            outgoing.write_batch([(IN_BAND, 0, 0, b"", bytes(rng.randrange(2000)))] * rng.randrange(4))
            outgoing.commit()
            outgoing.request_room(rng.randrange(4088))
        except RingError:
            errors += 1
            incoming.revert()
            outgoing.revert()
        except RingFull:
            outgoing.revert()
        assert 0 <= incoming.position < 4096 and 0 <= outgoing.position < 4096
    assert errors > 100
    assert packets > 10


def test_both_implementations_judge_the_same_ring_alike():
    rng = random.Random(1)
    for _ in range(3000):
        memory = RingMemory.private(4096)
        for offset in range(0, 512, 16):
            memory.write(offset, hostile_descriptor(rng))
        verdicts = []
        for pure in (True, False):
            incoming = IncomingRing(memory, pure=pure)
            memory.words[0] = rng.choice([96, 256, 512]) if pure else memory.words[0]
            try:
                verdicts.append([tuple(packet) for packet in incoming.read_batch()])
            except RingError as error:
                verdicts.append((type(error), str(error)))
        assert verdicts[0] == verdicts[1]
