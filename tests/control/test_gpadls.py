"""GPADLs at the host: assembled, refused, torn down, bounded."""

from __future__ import annotations

import pytest

from vmbus.control import errors
from vmbus.control import host_events as ev
from vmbus.control.server_gpadls import OVERHEAD_WORDS
from vmbus.gpadl import GpaRange
from vmbus.wire import control
from vmbus.wire.control_values import Status


def created(status=Status.SUCCESS, channel_id=1, gpadl_id=10):
    return control.GpadlCreated(channel_id=channel_id, gpadl_id=gpadl_id, status=status)


REFUSED = created(Status.UNSUCCESSFUL)


def violated(host, rule):
    (event,) = host.events
    assert type(event.error) is rule, event
    host.events.clear()
    return host


def header(words, *, range_bytes=None, range_count=1, gpadl_id=10, channel_id=1):
    length = len(words) * 8 if range_bytes is None else range_bytes
    return control.GpadlHeader(
        channel_id=channel_id, gpadl_id=gpadl_id, range_bytes=length, range_count=range_count, words=tuple(words)
    )


def test_a_small_gpadl_is_one_message(host, page):
    host.connect()
    host >> page(1, 10, pfn=7) << ev.GpadlRequested(1, 10, (GpaRange(4096, 0, (7,)),))
    host >> (lambda: host.server.gpadl_created(1, 10)) << created()


def test_a_large_gpadl_comes_in_pieces(host):
    pfns = tuple(range(100, 160))
    words = (60 * 4096, *pfns)
    host.connect()
    host >> header(words[:27], range_bytes=len(words) * 8)
    host >> control.GpadlBody(gpadl_id=10, words=words[27:55])
    (
        host
        >> control.GpadlBody(gpadl_id=10, words=words[55:])
        << ev.GpadlRequested(1, 10, (GpaRange(60 * 4096, 0, pfns),))
    )


def test_words_behind_the_announced_ones_mean_nothing(host):
    host.connect()
    host >> header((4096, 7, 99, 99), range_bytes=16) << ev.GpadlRequested(1, 10, (GpaRange(4096, 0, (7,)),))
    host >> header((8192, 7), range_bytes=24, gpadl_id=11)
    host >> control.GpadlBody(gpadl_id=11, words=(8, 99)) << ev.GpadlRequested(1, 11, (GpaRange(8192, 0, (7, 8)),))


def test_several_ranges(host):
    host.connect()
    host >> header((5 << 32 | 100, 1, 4096, 2), range_count=2)
    host << ev.GpadlRequested(1, 10, (GpaRange(100, 5, (1,)), GpaRange(4096, 0, (2,))))


def test_a_device_may_refuse_and_the_id_is_free_again(host, page):
    host.connect()
    for _ in range(2):
        host >> page(1, 10) << ev.GpadlRequested
        host >> (lambda: host.server.gpadl_refused(1, 10)) << REFUSED


@pytest.mark.parametrize(
    "message",
    [
        header((4096, 7), range_count=0),
        header((4096, 7), range_count=9),
        header((), range_bytes=0),
        header((0, 7)),
        header((4096 << 32 | 1, 7)),
        header((8192, 7)),
        header((0xFFFFFFFF, 7)),
    ],
)
def test_ranges_that_contradict_themselves_are_refused(host, message):
    host.connect()
    host >> message << ev.ProtocolViolation << REFUSED
    assert not host.server.gpadls


def test_a_bad_range_at_the_end_of_a_long_description_is_refused(host):
    host.connect()
    host >> header((8192, 7, 8), range_bytes=40, range_count=2)
    host >> control.GpadlBody(gpadl_id=10, words=(0, 9))
    violated(host, errors.MalformedGpadl) << REFUSED
    host >> control.GpadlBody(gpadl_id=10, words=(0, 9))
    violated(host, errors.UnknownGpadl)


def test_an_id_in_use_is_refused(host, page):
    host.connect().share(1)
    host >> page(1, 10)
    violated(host, errors.DuplicateGpadl) << REFUSED


def test_an_unfinished_id_is_unique_across_channels_because_bodies_name_none(host):
    host.offer(2)
    host.connect()
    host >> header((8192, 7), range_bytes=24)
    host >> header((8192, 7), range_bytes=24, channel_id=2)
    violated(host, errors.DuplicateGpadl) << created(Status.UNSUCCESSFUL, 2)
    # The first one goes on undisturbed.
    host >> control.GpadlBody(gpadl_id=10, words=(8,)) << ev.GpadlRequested(1, 10, (GpaRange(8192, 0, (7, 8)),))
    # A complete one of another channel may have the same id.
    host >> header((4096, 7), channel_id=2) << ev.GpadlRequested


def test_a_gpadl_for_an_unknown_channel_is_answered(host, page):
    host.connect()
    host >> page(9, 10)
    violated(host, errors.UnknownChannel) << created(Status.UNSUCCESSFUL, 9)


def test_a_guest_cannot_make_the_host_remember_without_end(make_host, page):
    host = make_host(max_gpadl_words=2 * (2 + OVERHEAD_WORDS))  # each is remembered, however small it is
    host.offer(1)
    host.connect().share(1, 1).share(1, 2)
    host >> page(1, 3)
    violated(host, errors.TooManyGpadls) << created(Status.UNSUCCESSFUL, 1, 3)
    (host >> control.GpadlTeardown(channel_id=1, gpadl_id=1)).ignore()
    (host >> (lambda: host.server.gpadl_torn_down(1, 1))).ignore()
    host >> page(1, 3) << ev.GpadlRequested


def test_teardown_waits_for_the_device(host):
    host.connect().share(1)
    host >> control.GpadlTeardown(channel_id=1, gpadl_id=10) << ev.GpadlTeardownRequested(1, 10)
    host >> control.GpadlTeardown(channel_id=1, gpadl_id=10)
    violated(host, errors.IllegalGpadlState)
    host >> (lambda: host.server.gpadl_torn_down(1, 10)) << control.GpadlTorndown(gpadl_id=10)


def test_only_finished_gpadls_are_torn_down(host, page):
    host.connect()
    host >> control.GpadlTeardown(channel_id=1, gpadl_id=10)
    violated(host, errors.UnknownGpadl)
    (host >> page(1, 10)).ignore()
    host >> control.GpadlTeardown(channel_id=1, gpadl_id=10)
    violated(host, errors.IllegalGpadlState)
    (host >> header((8192, 7), range_bytes=24, gpadl_id=11)).ignore()
    host >> control.GpadlTeardown(channel_id=1, gpadl_id=11)
    violated(host, errors.IllegalGpadlState)


def test_a_gpadl_of_a_rescinded_channel_is_accepted_without_a_device(host, page):
    host.connect()
    (host >> header((8192, 7), range_bytes=24)).ignore()
    (host >> (lambda: host.server.rescind(1))).ignore()
    host >> control.GpadlBody(gpadl_id=10, words=(8,)) << created()
    host >> page(1, 11) << created(gpadl_id=11)
    host >> control.GpadlTeardown(channel_id=1, gpadl_id=11) << control.GpadlTorndown(gpadl_id=11)


def test_a_rescind_forgets_memory_the_guest_no_longer_waits_for(host, page):
    host.connect()
    (host >> page(1, 10)).ignore()
    (host >> control.Unload()).ignore()
    (host >> (lambda: host.server.rescind(1))).ignore()
    assert not host.server.gpadls
