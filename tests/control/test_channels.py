"""The life of a channel at the host: open, close, reopen, rescind, release."""

from __future__ import annotations

import pytest

from vmbus.control import errors
from vmbus.control import host_events as ev
from vmbus.control.host_states import HostChannel
from vmbus.wire import control
from vmbus.wire.control_values import (
    INTERRUPTS_DISABLED,
    FeatureFlags,
    OpenChannelFlags,
    Status,
    Version,
)
from vmbus.wire.offer import OfferChannel

SIGNAL = FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS
REDIRECT = FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION


def violated(host, rule):
    """The only thing that came of it is this violation."""
    (event,) = host.events
    assert type(event.error) is rule, event
    assert event.advice and rule.__name__ in str(event)
    host.events.clear()
    return host


def result(status=Status.SUCCESS, open_id=0):
    return control.OpenResult(channel_id=1, open_id=open_id, status=status)


def state(host, channel_id=1):
    return host.server.offers.channels[channel_id].state


def test_a_channel_is_opened_with_what_the_guest_asked_for(host, opening):
    host.connect().share(1)
    host >> opening(1, target_vp=3, open_id=5, user_data=b"hello")
    params = ev.OpenParams(
        ring_gpadl_id=10,
        downstream_page_offset=1,
        target_vp=3,
        user_data=b"hello".ljust(120, b"\0"),
        event_flag=1,
        connection_id=0x2001,
    )
    host << ev.OpenRequested(1, params)
    host >> (lambda: host.server.open_finished(1)) << result(open_id=5)


def test_a_device_may_refuse_to_open_and_the_guest_may_try_again(host, opening):
    host.connect().share(1)
    for _ in range(2):
        host >> opening(1) << ev.OpenRequested
        host >> (lambda: host.server.open_finished(1, Status.UNSUCCESSFUL)) << result(Status.UNSUCCESSFUL)


def test_before_2_4_channels_interrupt_processor_0(host, opening):
    host.connect(Version.V1_1).share(1)
    host >> opening(1, target_vp=3)
    assert host.events.pop().params.target_vp == 0


def test_a_guest_may_want_no_interrupts(host, opening):
    host.connect().share(1)
    host >> opening(1, target_vp=INTERRUPTS_DISABLED)
    assert host.events.pop().params.target_vp is None


@pytest.mark.parametrize(
    ("features", "expected"),
    [(SIGNAL, (33, 44, False)), (REDIRECT, (1, 0x2001, True)), (SIGNAL | REDIRECT, (33, 44, True))],
)
def test_signal_parameters_and_redirection_count_as_far_as_they_were_agreed(host, opening, features, expected):
    host.connect(Version.V6_0, features).share(1)
    host >> opening(1, event_flag=33, connection_id=44, flags=OpenChannelFlags.REDIRECT_INTERRUPT)
    params = host.events.pop().params
    assert (params.event_flag, params.connection_id, params.redirect_interrupt) == expected


def test_a_guest_cannot_choose_what_does_not_exist_or_belongs_to_another_channel(host, opening):
    host.offer(2)
    host.offer(3)
    host.connect(Version.V6_0, SIGNAL).open(2, event_flag=5, connection_id=77)
    for flag, connection_id in ((2048, 1), (1, 77), (1, 0x2003)):
        host >> opening(1, event_flag=flag, connection_id=connection_id)
        violated(host, errors.InvalidSignalParameters) << result(Status.UNSUCCESSFUL)
    host >> opening(1, event_flag=2047, connection_id=0x2001) << ev.OpenRequested


def test_without_the_features_the_long_form_is_the_short_one(host, opening):
    host.connect(Version.V6_0).share(1)
    host >> opening(1, event_flag=33, connection_id=44, flags=OpenChannelFlags.REDIRECT_INTERRUPT)
    params = host.events.pop().params
    assert (params.event_flag, params.connection_id, params.redirect_interrupt) == (1, 0x2001, False)


def test_the_guests_own_connection_id_does_not_outlive_the_open(host, opening):
    host.connect(Version.V6_0, SIGNAL).open(1, event_flag=33, connection_id=44)
    assert host.server.offers.channels[1].connection_id == 0x2001


def test_a_channel_is_opened_only_once(host, opening):
    host.connect().share(1)
    (host >> opening(1)).ignore()
    host >> opening(1)
    violated(host, errors.ChannelAlreadyOpen)
    (host >> (lambda: host.server.open_finished(1))).ignore()
    host >> opening(1)
    violated(host, errors.ChannelAlreadyOpen)


def test_a_close_has_no_answer_and_a_reopen_waits_for_the_device(host, opening):
    host.connect().open(1)
    host >> control.CloseChannel(channel_id=1) << ev.CloseRequested(1)
    host >> opening(1, 11, open_id=2)
    host >> opening(1, 12)
    violated(host, errors.ChannelAlreadyOpen)
    host >> (lambda: host.server.close_finished(1)) << ev.OpenRequested
    host >> (lambda: host.server.open_finished(1)) << result(open_id=2)


def test_only_open_channels_are_closed(host, opening):
    host.connect().share(1)
    host >> control.CloseChannel(channel_id=1)
    violated(host, errors.ChannelNotOpen)
    (host >> opening(1)).ignore()
    host >> control.CloseChannel(channel_id=1)
    violated(host, errors.ChannelNotOpen)


def test_a_channel_that_is_not_offered_cannot_be_used(host, opening):
    host.connect()
    for message in (opening(2), control.CloseChannel(channel_id=2), control.RelIdReleased(channel_id=0)):
        host >> message
        violated(host, errors.UnknownChannel)


def test_a_released_channel_cannot_be_used_in_this_connection(host, opening):
    host.connect()
    host >> control.RelIdReleased(channel_id=1) << ev.ChannelReleased(1, gone=False)
    host >> opening(1)
    violated(host, errors.ChannelReleased)
    (host >> host.contact()).ignore()
    host >> control.RequestOffers() << ev.OffersRequested() << OfferChannel << control.AllOffersDelivered()


def test_an_open_channel_is_not_released(host):
    host.connect().open(1)
    host >> control.RelIdReleased(channel_id=1)
    violated(host, errors.IllegalChannelState)
    assert state(host) is HostChannel.OPEN


def test_a_channel_may_be_released_while_its_device_closes(host):
    host.connect().open(1)
    host >> control.CloseChannel(channel_id=1) << ev.CloseRequested(1)
    host >> control.RelIdReleased(channel_id=1) << ev.GpadlTeardownRequested(1, 10)
    host << ev.ChannelReleased(1, gone=False)
    host >> (lambda: host.server.close_finished(1))
    assert state(host) is HostChannel.RELEASED
    # The guest has let go: it is not told that the memory is free.
    host >> (lambda: host.server.gpadl_torn_down(1, 10))
    assert not host.server.gpadls


def test_a_rescinded_channel_stays_until_the_guest_releases_it(host, opening):
    host.connect().open(1)
    host >> (lambda: host.server.rescind(1)) << control.RescindChannelOffer(channel_id=1)
    # The guest finishes what it was doing and gets an answer to all of it.
    host >> control.CloseChannel(channel_id=1)
    host >> opening(1)
    host >> control.GpadlTeardown(channel_id=1, gpadl_id=10) << control.GpadlTorndown(gpadl_id=10)
    assert host.offer(2) == 2, "the id is in use until it is released"
    (host >> control.RelIdReleased(channel_id=1)).ignore()
    assert host.offer(3) == 1


def test_memory_that_was_not_torn_down_goes_with_the_rescinded_channel(host):
    host.connect().open(1)
    (host >> (lambda: host.server.rescind(1))).ignore()
    host >> control.RelIdReleased(channel_id=1) << ev.ChannelReleased(1, gone=True)
    assert not host.server.gpadls


def test_a_rescind_answers_whatever_the_guest_still_waits_for(host, opening, page):
    host.connect(Version.V5_3).open(1)
    (host >> page(1, 11)).ignore()
    (host >> control.GpadlTeardown(channel_id=1, gpadl_id=10)).ignore()
    (host >> control.ModifyChannel(channel_id=1, target_vp=1)).ignore()
    host >> (lambda: host.server.rescind(1))
    assert {type(m): m for m in host.messages} == {
        control.GpadlCreated: control.GpadlCreated(channel_id=1, gpadl_id=11, status=Status.UNSUCCESSFUL),
        control.GpadlTorndown: control.GpadlTorndown(gpadl_id=10),
        control.ModifyChannelResponse: control.ModifyChannelResponse(channel_id=1, status=Status.UNSUCCESSFUL),
        control.RescindChannelOffer: control.RescindChannelOffer(channel_id=1),
    }
    assert type(host.messages[-1]) is control.RescindChannelOffer
    host.ignore()


@pytest.mark.parametrize("reopening", [False, True])
def test_a_rescind_answers_an_open_request(host, opening, reopening):
    host.connect().share(1)
    if reopening:
        host.open(1, 11)
        (host >> control.CloseChannel(channel_id=1)).ignore()
    (host >> opening(1, open_id=9)).ignore()
    host >> (lambda: host.server.rescind(1))
    host << result(Status.UNSUCCESSFUL, 9) << control.RescindChannelOffer(channel_id=1)
    # The device answers into the void.
    host >> (lambda: host.server.open_finished(1)) << ev.StrayReply


def test_a_device_that_comes_back_is_offered_after_the_release_of_its_old_channel(host):
    host.connect()
    (host >> (lambda: host.server.rescind(1))).ignore()
    assert host.offer(1) == 1
    host >> (lambda: None)
    host >> control.RelIdReleased(channel_id=1) << ev.ChannelReleased(1, gone=False) << OfferChannel


def test_a_device_that_comes_back_may_go_again_before_the_release(host):
    host.connect()
    (host >> (lambda: host.server.rescind(1))).ignore()
    host.offer(1)
    host >> (lambda: host.server.rescind(1))
    host >> control.RelIdReleased(channel_id=1) << ev.ChannelReleased(1, gone=True)


def test_a_device_that_comes_back_and_a_guest_that_unloads(host):
    host.connect()
    (host >> (lambda: host.server.rescind(1))).ignore()
    host.offer(1)
    (host >> control.Unload()).ignore()
    assert state(host) is HostChannel.RELEASED


def test_a_channel_that_the_guest_does_not_know_goes_silently(host):
    host >> (lambda: host.server.rescind(1)) << ev.ChannelReleased(1, gone=True)


def test_a_rescind_does_not_wait_for_a_device_that_still_has_to_answer(host, opening):
    for closing in (False, True):
        host.connect().share(1)
        (host >> opening(1)).ignore()
        if closing:
            (host >> (lambda: host.server.open_finished(1))).ignore()
        (host >> control.Unload()).ignore()
        (host >> (lambda: host.server.gpadl_torn_down(1, 10))).ignore()
        host >> (lambda: host.server.rescind(1)) << ev.ChannelReleased(1, gone=True)
        host << ev.Disconnected() << ev.Unloaded() << control.UnloadComplete()
        host >> (lambda: host.server.open_finished(1)) << ev.StrayReply
        assert host.offer(1) == 1


def test_what_nobody_asked_for_is_a_stray_reply(host):
    host.connect()
    for reply in (
        lambda: host.server.open_finished(1),
        lambda: host.server.close_finished(1),
        lambda: host.server.modify_finished(1),
        lambda: host.server.gpadl_created(1, 2),
        lambda: host.server.gpadl_refused(1, 2),
        lambda: host.server.gpadl_torn_down(1, 2),
        lambda: host.server.contact_finished(),
        lambda: host.server.contact_unsupported(),
        lambda: host.server.disconnect_finished(),
        lambda: host.server.modify_connection_finished(),
        lambda: host.server.close_finished(99),
        lambda: host.server.modify_finished(99),
    ):
        host >> reply << ev.StrayReply


def test_our_own_mistakes_are_raised(host):
    with pytest.raises(errors.UnknownChannelId):
        host.server.rescind(9)
    with pytest.raises(errors.AlreadyOffered):
        host.offer(1)
    host.connect()
    (host >> (lambda: host.server.rescind(1))).ignore()
    with pytest.raises(errors.Misuse):
        host.server.rescind(1)


def test_a_guest_does_not_speak_like_a_host(host):
    host.connect()
    host >> result()
    violated(host, errors.WrongDirection)
