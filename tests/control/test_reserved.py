"""Reserved channels: opened outside the connection, and untouched by its end."""

from __future__ import annotations

from vmbus.control import errors
from vmbus.control import host_events as ev
from vmbus.control.host_states import HostChannel
from vmbus.wire import control
from vmbus.wire.control_values import Status, Version
from vmbus.wire.offer import OfferChannel


def violated(host, rule):
    event = host.events.pop()
    assert type(event.error) is rule, event
    return host


def open_reserved(channel_id=1):
    return control.OpenReservedChannel(
        channel_id=channel_id, target_vp=2, target_sint=3, ring_gpadl_id=10, downstream_page_offset=1
    )


def close_reserved(vp=4, sint=5):
    return control.CloseReservedChannel(channel_id=1, target_vp=vp, target_sint=sint)


RESULT = control.OpenResult(channel_id=1, open_id=0, status=Status.SUCCESS)
CLOSED = control.CloseReservedResponse(channel_id=1)


def reserve(host):
    host.share(1)
    (host >> open_reserved()).ignore()
    host >> (lambda: host.server.open_finished(1)) << RESULT
    return host


def test_it_is_polled_and_answers_where_the_guest_says(host):
    host.connect().share(1)
    host >> open_reserved()
    params = host.events.pop().params
    assert (params.target_vp, params.monitor, params.reserved) == (None, None, (2, 3))
    host >> (lambda: host.server.open_finished(1)) << RESULT
    assert host.sent[0][1:3] == (2, 3)
    host >> close_reserved() << ev.CloseRequested(1)
    host >> (lambda: host.server.close_finished(1)) << CLOSED
    assert host.sent[0][1:3] == (4, 5)


def test_it_exists_from_4_0_on(host):
    host.connect(Version.V3_0)
    violated(host >> open_reserved(), errors.UnsupportedMessage)


def test_only_a_closed_channel_can_be_reserved(host, opening):
    host.connect().open(1)
    violated(host >> open_reserved(), errors.IllegalChannelState)


def test_a_guest_that_cannot_know_whether_its_close_is_finished_is_refused_and_told(host):
    host.connect().open(1)
    host >> control.CloseChannel(channel_id=1) << ev.CloseRequested(1)
    host >> open_reserved() << control.OpenResult(channel_id=1, open_id=0, status=Status.UNSUCCESSFUL)
    assert host.sent[0][1:3] == (2, 3)
    host >> (lambda: host.server.close_finished(1))
    host >> open_reserved() << ev.OpenRequested


def test_the_two_kinds_of_close_do_not_mix(host):
    reserve(host.connect())
    violated(host >> control.CloseChannel(channel_id=1), errors.ChannelReserved)
    host.offer(2)
    (host >> (lambda: None)).ignore()
    host.open(2, 20)
    close = control.CloseReservedChannel(channel_id=2, target_vp=0, target_sint=2)
    violated(host >> close, errors.ChannelNotReserved)
    (host >> close_reserved()).ignore()
    violated(host >> close_reserved(), errors.ChannelNotOpen)


def test_it_gets_no_gpadls_and_keeps_those_it_has(host, page):
    reserve(host.connect())
    violated(host >> page(1, 11), errors.ChannelReserved)
    host << control.GpadlCreated(channel_id=1, gpadl_id=11, status=Status.UNSUCCESSFUL)
    violated(host >> control.GpadlTeardown(channel_id=1, gpadl_id=10), errors.ChannelReserved)


def test_it_has_no_processor_to_change(host):
    reserve(host.connect(Version.V5_3))
    violated(host >> control.ModifyChannel(channel_id=1, target_vp=0), errors.IllegalChannelState)
    host << control.ModifyChannelResponse


def test_unload_leaves_it_open_and_it_is_closed_afterwards(host):
    reserve(host.connect())
    host >> control.Unload() << ev.Disconnected() << ev.Unloaded() << control.UnloadComplete()
    host >> close_reserved() << ev.CloseRequested(1)
    host >> (lambda: host.server.close_finished(1))
    # Now it is like all others, and its memory goes.
    host << ev.GpadlTeardownRequested(1, 10) << ev.ChannelReleased(1, gone=False) << CLOSED
    host >> (lambda: host.server.gpadl_torn_down(1, 10))
    assert not host.server.gpadls


def test_after_unload_its_memory_is_not_answered_for(host, page):
    host.connect()
    (host >> page(1, 10)).ignore()
    (host >> open_reserved()).ignore()
    (host >> control.Unload()).ignore()
    # Not even in the next connection: the device has to let go again.
    host.connect()
    host >> (lambda: host.server.gpadl_created(1, 10)) << ev.GpadlTeardownRequested(1, 10)
    host >> (lambda: host.server.gpadl_torn_down(1, 10))
    host >> (lambda: host.server.open_finished(1)) << RESULT


def test_after_unload_a_description_in_progress_is_forgotten_and_a_teardown_goes_on_silently(host):
    host.connect().share(1, 10)
    host >> control.GpadlHeader(channel_id=1, gpadl_id=11, range_bytes=24, range_count=1, words=(8192,))
    host >> control.GpadlTeardown(channel_id=1, gpadl_id=10) << ev.GpadlTeardownRequested(1, 10)
    (host >> open_reserved()).ignore()
    host.connect()
    assert list(host.server.gpadls) == [(1, 10)]
    host >> (lambda: host.server.gpadl_torn_down(1, 10))
    assert not host.server.gpadls


def test_it_lives_through_a_new_connection_and_is_not_offered_there(host):
    reserve(host.connect())
    (host >> control.Unload()).ignore()
    (host >> host.contact()).ignore()
    host >> control.RequestOffers() << ev.OffersRequested() << control.AllOffersDelivered()
    host >> close_reserved() << ev.CloseRequested(1)
    host >> (lambda: host.server.close_finished(1)) << CLOSED
    assert host.server.offers.channels[1].state is HostChannel.OFFERED


def test_one_that_fails_to_open_after_unload_is_like_all_others(host):
    host.connect().share(1)
    (host >> open_reserved()).ignore()
    (host >> control.Unload()).ignore()
    host >> (lambda: host.server.open_finished(1, Status.UNSUCCESSFUL)) << ev.GpadlTeardownRequested
    host << ev.ChannelReleased(1, gone=False) << control.OpenResult
    host >> (lambda: host.server.gpadl_torn_down(1, 10))


def test_reset_closes_it(host):
    reserve(host.connect())
    (host >> control.Unload()).ignore()
    host >> (lambda: host.server.reset()) << ev.CloseRequested(1) << ev.GpadlTeardownRequested(1, 10)
    host << ev.ChannelReleased(1, gone=False)
    host >> (lambda: host.server.close_finished(1))
    host >> (lambda: host.server.gpadl_torn_down(1, 10)) << ev.Disconnected() << ev.ResetFinished()


def test_it_can_be_rescinded(host):
    reserve(host.connect())
    host >> (lambda: host.server.rescind(1)) << control.RescindChannelOffer(channel_id=1)
    host >> close_reserved() << CLOSED
    host >> open_reserved()


def test_one_that_is_rescinded_after_unload_is_closed_all_the_same(host):
    reserve(host.connect())
    (host >> control.Unload()).ignore()
    # Nobody would listen to a rescind.
    host >> (lambda: host.server.rescind(1))
    host >> close_reserved() << ev.ChannelReleased(1, gone=True) << CLOSED
    assert not host.server.offers.channels


def test_one_that_is_rescinded_after_unload_says_so_when_it_is_closed_in_the_next_connection(host):
    reserve(host.connect())
    (host >> control.Unload()).ignore()
    (host >> (lambda: host.server.rescind(1))).ignore()
    assert host.offer(1) == 1
    host >> (lambda: host.server.rescind(1))
    assert host.offer(1) == 1
    (host >> host.contact()).ignore()
    # The guest still has it, so it is not offered yet.
    host >> control.RequestOffers() << ev.OffersRequested() << control.AllOffersDelivered()
    host >> close_reserved() << CLOSED << control.RescindChannelOffer(channel_id=1)
    host >> control.RelIdReleased(channel_id=1) << ev.ChannelReleased(1, gone=False) << OfferChannel


def test_a_kernel_that_was_not_offered_it_does_not_hear_that_it_goes(host):
    reserve(host.connect())
    # A second kernel, begun by the first one's crash.
    host.connect(Version.V0_13)
    host >> (lambda: host.server.rescind(1))
    host >> (lambda: host.server.reset()) << ev.ChannelReleased(1, gone=True)
    host << ev.Disconnected() << ev.ResetFinished()


def test_a_guest_that_still_waits_for_its_answer_is_told_in_the_next_connection_too(host):
    host.connect().share(1)
    (host >> open_reserved()).ignore()
    host.connect()
    host >> (lambda: host.server.rescind(1))
    host << control.OpenResult(channel_id=1, open_id=0, status=Status.UNSUCCESSFUL)
    host << control.RescindChannelOffer(channel_id=1)


def test_a_rescind_answers_a_close(host):
    reserve(host.connect())
    (host >> close_reserved()).ignore()
    host >> (lambda: host.server.rescind(1)) << CLOSED << control.RescindChannelOffer(channel_id=1)


def test_a_rescind_after_unload_answers_a_close_and_has_nobody_else_to_tell(host):
    reserve(host.connect())
    (host >> control.Unload()).ignore()
    (host >> close_reserved()).ignore()
    host >> (lambda: host.server.rescind(1)) << ev.ChannelReleased(1, gone=True) << CLOSED
    assert not host.server.offers.channels


def test_an_unload_does_not_wait_for_one_that_was_rescinded_before_it_was_open(host, opening):
    host.offer(2)
    host.connect().share(1).share(2, 20)
    (host >> open_reserved()).ignore()
    (host >> opening(2, 20)).ignore()
    host >> control.Unload() << ev.GpadlTeardownRequested(2, 20) << ev.ChannelReleased(2, gone=False)
    host >> (lambda: host.server.rescind(1)) << ev.ChannelReleased(1, gone=True)
    host << control.OpenResult(channel_id=1, open_id=0, status=Status.UNSUCCESSFUL)
    (host >> (lambda: host.server.gpadl_torn_down(2, 20))).ignore()
    host >> (lambda: host.server.open_finished(2, Status.UNSUCCESSFUL)) << ev.Disconnected() << ev.Unloaded()
    host << control.UnloadComplete()


def test_a_reserved_channel_comes_back_in_the_next_offers_after_it_was_closed(host):
    reserve(host.connect())
    (host >> control.Unload()).ignore()
    (host >> close_reserved()).ignore()
    (host >> (lambda: host.server.close_finished(1))).ignore()
    (host >> (lambda: host.server.gpadl_torn_down(1, 10))).ignore()
    (host >> host.contact()).ignore()
    host >> control.RequestOffers() << ev.OffersRequested() << OfferChannel << control.AllOffersDelivered()
