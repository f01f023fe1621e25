"""What a guest asks, and what it makes of the answers; a hostile host included."""

from __future__ import annotations

from uuid import UUID

import pytest

from vmbus.control import errors
from vmbus.control import guest_events as ev
from vmbus.control.events import MonitorPages
from vmbus.control.guest_states import GuestChannel, GuestConnection
from vmbus.gpadl import GpaRange
from vmbus.wire import control, guids
from vmbus.wire.control_values import (
    ALL_FEATURES,
    INTERRUPTS_DISABLED,
    ConnectionState,
    FeatureFlags,
    OpenChannelFlags,
    Status,
    Version,
)
from vmbus.wire.offer import HvsockUserDefined, OfferChannel, OfferChannelPre7, OfferFlags

NO = control.VersionResponse(version_supported=0)
PAGES = MonitorPages(0x1000, 0x2000)
SIGNAL, REDIRECT = FeatureFlags.GUEST_SPECIFIED_SIGNAL_PARAMETERS, FeatureFlags.CHANNEL_INTERRUPT_REDIRECTION


def violated(guest, rule):
    event = guest.events.pop()
    assert isinstance(event, ev.HostViolation) and type(event.error) is rule, event
    assert event.advice and rule.__name__ in str(event)
    return guest


def yes(**fields):
    return control.VersionResponse(version_supported=1, **fields)


class TestConnecting:
    def test_versions_are_tried_from_the_newest_to_the_oldest(self, guest):
        guest >> (lambda: guest.client.connect(versions=[Version.V2_4, Version.V6_0, Version.V5_0]))
        assert [m.version for m in guest.messages] == [Version.V6_0]
        guest.ignore()
        for version in (Version.V5_0, Version.V2_4):
            guest >> NO
            assert [m.version for m in guest.messages] == [version]
            guest.ignore()
        guest >> NO << ev.ConnectFailed(None)
        assert guest.client.connection is GuestConnection.DISCONNECTED

    def test_what_a_contact_carries_depends_on_its_version(self, guest):
        client = UUID(int=5)
        guest >> (
            lambda: guest.client.connect(
                versions=[Version.V6_0, Version.V5_0, Version.V4_1],
                target_message_vp=3,
                monitor_pages=PAGES,
                interrupt_page=0x3000,
                client_id=client,
            )
        )
        common = {
            "parent_to_child_monitor_page": 0x1000,
            "child_to_parent_monitor_page": 0x2000,
            "target_message_vp": 3,
        }
        guest << control.InitiateContact6(version=Version.V6_0, features=ALL_FEATURES, client_id=client, **common)
        assert guest.sent[0].connection_id == 4
        guest >> NO << control.InitiateContact5(version=Version.V5_0, **common)
        guest >> NO << control.InitiateContact(version=Version.V4_1, interrupt_page=0x3000, **common)
        assert guest.sent[0].connection_id == 1

    def test_from_5_0_on_the_host_says_where_messages_go(self, guest):
        guest >> (lambda: guest.client.connect(versions=[Version.V5_0]))
        guest.ignore()
        guest >> yes(version_or_connection_id=77) << ev.Connected(Version.V5_0, FeatureFlags(0), None, False)
        guest << control.RequestOffers()
        assert guest.sent[0].connection_id == 77

    def test_before_5_0_they_go_to_connection_1(self, guest):
        guest >> (lambda: guest.client.connect(versions=[Version.V4_1]))
        guest.ignore()
        (guest >> yes(version_or_connection_id=0x40001)).ignore()
        assert guest.sent[0].connection_id == 1

    def test_vtl_2_posts_to_the_redirected_connection(self, guest):
        guest >> (lambda: guest.client.connect(versions=[Version.V5_3], target_sint=7, target_vtl=2))
        guest << control.InitiateContact5(version=Version.V5_3, target_sint=7, target_vtl=2)
        assert guest.sent[0].connection_id == 0x800074

    def test_a_host_may_fail_from_2_4_on(self, guest):
        low = ConnectionState.FAILED_LOW_RESOURCES
        for version, failed in ((Version.V1_1, False), (Version.V2_4, True)):
            (guest >> (lambda v=version: guest.client.connect(versions=[v]))).ignore()
            guest >> yes(connection_state=low)
            assert guest.events.pop() == (
                ev.ConnectFailed(low) if failed else ev.Connected(Version.V1_1, FeatureFlags(0), None, False)
            )
            guest.ignore()
            if not failed:
                (guest >> (lambda: guest.client.unload())).ignore()
                (guest >> control.UnloadComplete()).ignore()

    def test_a_host_cannot_give_features_that_were_not_asked_for(self, guest):
        guest.connect(Version.V6_0, 0xFF & ~0x40, features=FeatureFlags(0x3))
        assert guest.client.features == FeatureFlags(0x3)

    def test_the_hosts_own_monitor_pages_are_used(self, guest):
        flag = FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES
        (guest >> (lambda: guest.client.connect(versions=[Version.V6_0], monitor_pages=PAGES))).ignore()
        answer = control.VersionResponse3(
            version_supported=1, version_or_connection_id=4, features=flag, child_to_parent_monitor_page=0x9000
        )
        guest >> answer << ev.Connected(Version.V6_0, flag, MonitorPages(0, 0x9000), True) << control.RequestOffers()
        assert guest.client.host_monitor_pages

    @pytest.mark.parametrize("kind", [control.VersionResponse2, control.VersionResponse3])
    def test_a_host_that_lies_about_monitor_pages_is_not_connected_to(self, guest, kind):
        (guest >> (lambda: guest.client.connect(versions=[Version.V6_0]))).ignore()
        flag = FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES
        guest >> kind(version_supported=1, features=flag)
        violated(guest, errors.BadMonitorPages) << ev.ConnectFailed(ConnectionState.FAILED_UNKNOWN_FAILURE)

    def test_a_pause_and_a_version_that_nobody_asked_for(self, guest):
        violated(guest >> yes(), errors.UnsolicitedMessage)
        guest.connect()
        violated(guest >> NO, errors.UnsolicitedMessage)
        violated(guest >> control.AllOffersDelivered(), errors.UnsolicitedMessage)

    def test_there_is_one_connection_at_a_time(self, guest):
        guest.connect()
        with pytest.raises(errors.WrongState):
            guest.client.connect()

    def test_no_version_is_no_wish(self, guest):
        with pytest.raises(errors.Misuse):
            guest.client.connect(versions=[])

    def test_messages_of_a_guest_are_none_of_a_host(self, guest):
        guest.connect()
        violated(guest >> control.RequestOffers(), errors.WrongDirection)

    def test_without_a_connection_nothing_else_is_heard(self, guest):
        offer = OfferChannel(interface_id=guids.SCSI, instance_id=UUID(int=1), channel_id=1, connection_id=1)
        violated(guest >> offer, errors.UnsupportedMessage)

    def test_unload_while_a_version_is_negotiated(self, guest):
        (guest >> (lambda: guest.client.connect(versions=[Version.V5_3]))).ignore()
        guest >> (lambda: guest.client.unload()) << control.Unload()
        guest >> yes()
        guest >> control.UnloadComplete() << ev.UnloadFinished()

    @pytest.mark.parametrize("spoken", [False, True])
    def test_unload_while_0_13_is_negotiated_waits_for_the_answer(self, guest, spoken):
        (guest >> (lambda: guest.client.connect(versions=[Version.V0_13]))).ignore()
        guest >> (lambda: guest.client.unload())
        guest >> control.VersionResponse(version_supported=int(spoken)) << ev.UnloadFinished()
        if spoken:
            guest << control.Unload()
        guest.connect()

    def test_unload_without_a_connection(self, guest):
        guest >> (lambda: guest.client.unload()) << ev.UnloadFinished()
        guest.connect()
        guest >> (lambda: guest.client.unload()) << control.Unload()
        with pytest.raises(errors.WrongState):
            guest.client.unload()
        guest >> control.UnloadComplete() << ev.UnloadFinished()

    def test_a_host_of_0_13_does_not_confirm(self, guest):
        guest.connect(Version.V0_13)
        guest.offered(1)
        guest >> (lambda: guest.client.unload()) << ev.UnloadFinished() << control.Unload()
        assert not guest.client.channels

    def test_unload_that_nobody_asked_for(self, guest):
        guest.connect()
        violated(guest >> control.UnloadComplete(), errors.UnsolicitedMessage)

    def test_an_offer_that_crosses_the_unload_is_nothing(self, guest):
        guest.connect()
        (guest >> (lambda: guest.client.unload())).ignore()
        guest >> OfferChannel(interface_id=guids.SCSI, instance_id=UUID(int=1), channel_id=1, connection_id=1)
        assert not guest.client.channels


class TestChannels:
    def test_an_offer_says_what_to_signal(self, guest):
        guest.connect()
        offer = OfferChannel(interface_id=guids.SCSI, instance_id=UUID(int=1), channel_id=3, connection_id=0x2003)
        guest >> offer << ev.ChannelOffered(offer, 0x2003)
        assert ev.ChannelOffered(offer, 0x2003).channel_id == 3
        old = OfferChannelPre7(interface_id=guids.SCSI, instance_id=UUID(int=2), channel_id=4)
        guest >> old << ev.ChannelOffered(old, 2)
        assert guest.client.channels[4].channel_id == 4

    @pytest.mark.parametrize("channel_id", [0, 2048, 0xFFFFFFFF])
    def test_a_channel_id_is_an_event_flag(self, guest, channel_id):
        guest.connect()
        offer = OfferChannel(interface_id=guids.SCSI, instance_id=UUID(int=1), channel_id=channel_id, connection_id=1)
        violated(guest >> offer, errors.InvalidChannelId)

    def test_a_channel_id_in_use_is_not_offered_again(self, guest):
        guest.connect()
        guest.offered(1)
        offer = OfferChannel(interface_id=guids.NETWORK, instance_id=UUID(int=9), channel_id=1, connection_id=1)
        violated(guest >> offer, errors.DuplicateOffer)
        # Nor while it is rescinded and not released.
        (guest >> control.RescindChannelOffer(channel_id=1)).ignore()
        violated(guest >> offer, errors.DuplicateOffer)
        (guest >> (lambda: guest.client.release(1))).ignore()
        guest >> offer << ev.ChannelOffered(offer, 1)

    def test_a_channel_is_opened_and_closed(self, guest):
        guest.connect()
        guest.offered(1)
        gpadl_id = guest.opened(1)
        assert gpadl_id == 0xE1E10, "Linux's first one"
        guest >> (lambda: guest.client.close(1)) << control.CloseChannel(channel_id=1)
        guest >> (lambda: guest.client.open(1, gpadl_id, 0, target_vp=None, user_data=b"x"))
        guest << control.OpenChannel(
            channel_id=1,
            open_id=2,
            ring_gpadl_id=gpadl_id,
            target_vp=INTERRUPTS_DISABLED,
            downstream_page_offset=0,
            user_data=b"x".ljust(120, b"\0"),
        )

    def test_an_open_may_fail(self, guest):
        guest.connect()
        guest.offered(1)
        (guest >> (lambda: guest.client.open(1, 1, 0))).ignore()
        failed = Status.UNSUCCESSFUL
        guest >> control.OpenResult(channel_id=1, open_id=1, status=failed) << ev.OpenFinished(1, failed)
        assert guest.client.channels[1].state is GuestChannel.OFFERED

    def test_results_that_nobody_waits_for(self, guest):
        guest.connect()
        guest.offered(1)
        violated(guest >> control.OpenResult(channel_id=1, open_id=0, status=0), errors.UnsolicitedMessage)
        violated(guest >> control.OpenResult(channel_id=2, open_id=0, status=0), errors.UnknownChannel)
        (guest >> (lambda: guest.client.open(1, 1, 0))).ignore()
        violated(guest >> control.OpenResult(channel_id=1, open_id=7, status=0), errors.UnsolicitedMessage)
        violated(guest >> control.CloseReservedResponse(channel_id=1), errors.UnsolicitedMessage)
        violated(guest >> control.ModifyChannelResponse(channel_id=1, status=0), errors.UnsolicitedMessage)

    def test_own_signal_parameters_need_the_features(self, guest):
        guest.connect(Version.V6_0)
        guest.offered(1)
        for wish in ({"event_flag": 5}, {"connection_id": 5}, {"redirect_interrupt": True}):
            with pytest.raises(errors.NotNegotiated):
                guest.client.open(1, 1, 0, **wish)

    def test_own_signal_parameters_are_sent(self, guest):
        guest.connect(Version.V6_0, SIGNAL | REDIRECT)
        guest.offered(1)
        (
            guest
            >> (lambda: guest.client.open(1, 1, 0, event_flag=5, connection_id=6, redirect_interrupt=True))
            << control.OpenChannel2(
                channel_id=1,
                open_id=1,
                ring_gpadl_id=1,
                downstream_page_offset=0,
                user_data=bytes(120),
                event_flag=5,
                connection_id=6,
                flags=OpenChannelFlags.REDIRECT_INTERRUPT,
            )
        )
        assert guest.client.channels[1].connection_id == 6

    def test_redirected_interrupts_have_event_flags_of_their_own(self, guest):
        guest.connect(Version.V6_0, SIGNAL | REDIRECT)
        channels = [guest.offered(channel_id) for channel_id in (7, 8, 9)]

        def opened_with(channel_id, **wish):
            guest >> (lambda: guest.client.open(channel_id, 1, 0, redirect_interrupt=True, **wish))
            return guest.messages.pop().event_flag

        assert [opened_with(channel_id) for channel_id in channels] == [1, 2, 3]
        # What fails, closes or goes gives its flag back.
        (guest >> control.OpenResult(channel_id=7, open_id=1, status=1)).ignore()
        (guest >> control.RescindChannelOffer(channel_id=8)).ignore()
        (guest >> control.OpenResult(channel_id=9, open_id=1, status=0)).ignore()
        assert [guest.client.channels[channel_id].redirected_flag for channel_id in channels] == [None, None, 3]
        with pytest.raises(errors.Misuse):
            guest.client.open(7, 1, 0, redirect_interrupt=True, event_flag=3)
        (guest >> (lambda: guest.client.close(9))).ignore()
        assert (opened_with(9), opened_with(7, event_flag=3)) == (1, 3)

    def test_where_a_guest_cannot_choose_the_redirected_flag_is_the_channel_id(self, guest):
        guest.connect(Version.V6_0, REDIRECT)
        guest.offered(7)
        guest >> (lambda: guest.client.open(7, 1, 0, redirect_interrupt=True)) << control.OpenChannel2
        assert guest.client.channels[7].redirected_flag == 7

    def test_with_the_feature_and_without_a_wish_the_usual_parameters_are_said(self, guest):
        guest.connect(Version.V6_0, SIGNAL)
        guest.offered(1)
        guest >> (lambda: guest.client.open(1, 1, 0))
        (request,) = guest.messages
        assert (request.event_flag, request.connection_id, request.flags) == (1, 0x2001, 0)
        guest.ignore()

    def test_another_processor(self, guest):
        guest.connect(Version.V5_3)
        guest.offered(1)
        with pytest.raises(errors.WrongState):
            guest.client.modify_channel(1, 3)
        guest.opened(1)
        guest >> (lambda: guest.client.modify_channel(1, 3)) << control.ModifyChannel(channel_id=1, target_vp=3)
        with pytest.raises(errors.WrongState):
            guest.client.modify_channel(1, 4)
        guest >> control.ModifyChannelResponse(channel_id=1, status=0) << ev.ChannelModified(1, Status.SUCCESS)

    def test_before_5_3_a_modification_has_no_answer(self, guest):
        guest.connect(Version.V5_2)
        guest.offered(1)
        guest.opened(1)
        for vp in (3, 4):
            guest >> (lambda vp=vp: guest.client.modify_channel(1, vp)) << control.ModifyChannel

    def test_what_the_version_does_not_have_is_refused(self, guest):
        with pytest.raises(errors.WrongState):
            guest.client.open(1, 1, 0)
        guest.connect(Version.V3_0)
        guest.offered(1)
        with pytest.raises(errors.NotNegotiated, match="MODIFY_CHANNEL"):
            guest.client.modify_channel(1, 3)
        with pytest.raises(errors.UnknownChannelId):
            guest.client.open(9, 1, 0)

    def test_a_rescind_ends_what_waits(self, guest):
        guest.connect(Version.V5_3)
        guest.offered(1)
        guest.opened(1)
        (guest >> (lambda: guest.client.modify_channel(1, 3))).ignore()
        guest >> control.RescindChannelOffer(channel_id=1) << ev.ChannelModified(1, Status.UNSUCCESSFUL)
        guest << ev.ChannelRescinded(1)
        # Some hosts answer all the same, once.
        guest >> control.ModifyChannelResponse(channel_id=1, status=0)
        violated(guest >> control.ModifyChannelResponse(channel_id=1, status=0), errors.UnsolicitedMessage)
        guest.offered(2)
        (guest >> (lambda: guest.client.open(2, 1, 0))).ignore()
        guest >> control.RescindChannelOffer(channel_id=2) << ev.OpenFinished(2, Status.UNSUCCESSFUL)
        guest << ev.ChannelRescinded(2)
        violated(guest >> control.RescindChannelOffer(channel_id=2), errors.UnsolicitedMessage)
        violated(guest >> control.RescindChannelOffer(channel_id=5), errors.UnknownChannel)

    def test_a_rescinded_channel_is_closed_quietly_and_released(self, guest):
        guest.connect()
        guest.offered(1)
        gpadl_id = guest.opened(1)
        (guest >> control.RescindChannelOffer(channel_id=1)).ignore()
        with pytest.raises(errors.WrongState):
            guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))])
        guest >> (lambda: guest.client.close(1))
        (guest >> (lambda: guest.client.teardown_gpadl(gpadl_id))).ignore()
        # The release waits for the answer.
        guest >> (lambda: guest.client.release(1))
        guest >> control.GpadlTorndown(gpadl_id=gpadl_id) << ev.GpadlTornDown(1, gpadl_id) << ev.ChannelGone(1)
        guest << control.RelIdReleased(channel_id=1)
        # Only now may the id come back.
        guest.offered(1)

    def test_a_rescinded_channel_is_not_opened(self, guest):
        guest.connect()
        guest.offered(1)
        guest >> control.RescindChannelOffer(channel_id=1) << ev.ChannelRescinded(1)
        with pytest.raises(errors.WrongState):
            guest.client.open(1, 1, 0)

    def test_memory_that_is_taken_back_when_the_channel_goes_is_waited_for(self, guest):
        guest.connect()
        guest.offered(1)
        ids = [guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))]) for _ in range(3)]
        guest.client.outgoing()
        for gpadl_id in ids:
            (guest >> control.GpadlCreated(channel_id=1, gpadl_id=gpadl_id, status=0)).ignore()
        # One before the rescind, one after it, and one goes with the channel.
        guest >> (lambda: guest.client.teardown_gpadl(ids[0])) << control.GpadlTeardown
        guest >> control.RescindChannelOffer(channel_id=1) << ev.ChannelRescinded(1)
        guest >> (lambda: guest.client.teardown_gpadl(ids[1])) << control.GpadlTeardown
        guest >> (lambda: guest.client.release(1))
        guest >> control.GpadlTorndown(gpadl_id=ids[1]) << ev.GpadlTornDown(1, ids[1])
        guest >> control.GpadlTorndown(gpadl_id=ids[0]) << ev.GpadlTornDown(1, ids[0]) << ev.ChannelGone(1)
        guest << control.RelIdReleased(channel_id=1)
        assert not guest.client.gpadls

    def test_a_release_waits_for_a_gpadl_that_is_being_created(self, guest):
        guest.connect()
        guest.offered(1)
        (guest >> (lambda: guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))]))).ignore()
        (guest >> control.RescindChannelOffer(channel_id=1)).ignore()
        guest >> (lambda: guest.client.release(1))
        guest >> control.GpadlCreated(channel_id=1, gpadl_id=0xE1E10, status=0)
        guest << ev.GpadlFinished(1, 0xE1E10, Status.SUCCESS) << ev.ChannelGone(1) << control.RelIdReleased
        assert not guest.client.gpadls

    def test_an_unused_channel_can_be_released_and_then_not_opened(self, guest):
        guest.connect()
        guest.offered(1)
        (guest >> (lambda: guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))]))).ignore()
        guest >> (lambda: guest.client.release(1))
        with pytest.raises(errors.WrongState):
            guest.client.open(1, 1, 0)
        guest >> control.GpadlCreated(channel_id=1, gpadl_id=0xE1E10, status=1)
        guest << ev.GpadlFinished << ev.ChannelGone(1) << control.RelIdReleased

    def test_an_open_channel_is_not_released(self, guest):
        guest.connect()
        guest.offered(1)
        guest.opened(1)
        with pytest.raises(errors.WrongState, match="close it first"):
            guest.client.release(1)

    def test_after_unload_nothing_is_sent_about_channels(self, guest):
        guest.connect()
        guest.offered(1)
        guest.offered(2)
        guest.opened(1)
        (guest >> (lambda: guest.client.unload())).ignore()
        guest >> (lambda: guest.client.close(1))
        guest >> (lambda: guest.client.release(2)) << ev.ChannelGone(2)
        guest >> control.UnloadComplete() << ev.UnloadFinished()
        assert not guest.client.channels and not guest.client.gpadls


class TestMemory:
    def test_a_large_gpadl_is_sent_in_pieces(self, guest):
        guest.connect()
        guest.offered(1)
        pfns = tuple(range(60))
        guest >> (lambda: guest.client.create_gpadl(1, [GpaRange(60 * 4096, 0, pfns)]))
        guest << control.GpadlHeader(
            channel_id=1, gpadl_id=0xE1E10, range_bytes=61 * 8, range_count=1, words=(60 * 4096, *pfns[:26])
        )
        guest << control.GpadlBody(gpadl_id=0xE1E10, words=pfns[26:54])
        guest << control.GpadlBody(gpadl_id=0xE1E10, words=pfns[54:])

    def test_ids_are_not_used_twice_while_the_host_knows_them(self, guest):
        guest.connect()
        guest.offered(1)
        guest.client._next_gpadl_id = 0xFFFFFFFF
        ids = []
        for _ in range(2):
            (guest >> (lambda: ids.append(guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))])))).ignore()
        guest.client._next_gpadl_id = 0xFFFFFFFF
        (guest >> (lambda: ids.append(guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))])))).ignore()
        assert ids == [0xFFFFFFFF, 1, 2]

    @pytest.mark.parametrize("ranges", [[], [GpaRange(4096 * 9000, 0, tuple(range(9000)))]])
    def test_too_much_or_nothing_is_refused(self, guest, ranges):
        guest.connect()
        guest.offered(1)
        with pytest.raises(errors.Misuse):
            guest.client.create_gpadl(1, ranges)

    def test_answers_that_nobody_waits_for(self, guest):
        guest.connect()
        guest.offered(1)
        guest.offered(2)
        gpadl_id = guest.opened(1)
        for channel_id, other in ((1, gpadl_id), (2, gpadl_id), (1, 5)):
            message = control.GpadlCreated(channel_id=channel_id, gpadl_id=other, status=0)
            violated(guest >> message, errors.UnsolicitedMessage)
        for other in (gpadl_id, 5):
            violated(guest >> control.GpadlTorndown(gpadl_id=other), errors.UnsolicitedMessage)

    def test_only_memory_that_is_shared_is_taken_back(self, guest):
        guest.connect()
        guest.offered(1)
        gpadl_id = guest.opened(1)
        with pytest.raises(errors.Misuse):
            guest.client.teardown_gpadl(5)
        (guest >> (lambda: guest.client.teardown_gpadl(gpadl_id))).ignore()
        with pytest.raises(errors.WrongState):
            guest.client.teardown_gpadl(gpadl_id)


class TestTheRest:
    def test_other_monitor_pages(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.MODIFY_CONNECTION)
        (
            guest
            >> (lambda: guest.client.modify_connection(PAGES))
            << control.ModifyConnection(parent_to_child_monitor_page=0x1000, child_to_parent_monitor_page=0x2000)
        )
        with pytest.raises(errors.WrongState):
            guest.client.modify_connection(None)
        done = control.ModifyConnectionResponse(connection_state=0)
        guest >> done << ev.ConnectionModified(ConnectionState.SUCCESSFUL)
        violated(guest >> done, errors.UnsolicitedMessage)
        guest >> (lambda: guest.client.modify_connection(None)) << control.ModifyConnection()

    def test_pages_of_the_host_are_not_changed(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.MODIFY_CONNECTION)
        guest.client.host_monitor_pages = True
        with pytest.raises(errors.WrongState):
            guest.client.modify_connection(PAGES)

    def test_pause_and_resume(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
        guest >> (lambda: guest.client.pause()) << control.Pause()
        guest >> control.PauseResponse() << ev.HostSilent()
        violated(guest >> control.PauseResponse(), errors.UnsolicitedMessage)
        with pytest.raises(errors.WrongState):
            guest.client.pause()
        guest >> (lambda: guest.client.resume()) << control.Resume()
        with pytest.raises(errors.WrongState):
            guest.client.resume()

    def test_what_the_guest_says_during_a_pause_waits(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
        guest.offered(1)
        gpadl_id = guest.opened(1)
        guest >> (lambda: guest.client.close(1)) << control.CloseChannel
        (guest >> (lambda: guest.client.teardown_gpadl(gpadl_id))).ignore()
        (guest >> (lambda: guest.client.release(1))).ignore()
        guest >> (lambda: guest.client.pause()) << control.Pause()
        # The host had said this before it heard.
        guest >> control.GpadlTorndown(gpadl_id=gpadl_id) << ev.GpadlTornDown << ev.ChannelGone(1)
        assert guest.client.is_paused
        guest >> (lambda: guest.client.resume()) << control.Resume() << control.RelIdReleased(channel_id=1)

    def test_an_unload_ends_a_pause(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
        guest >> (lambda: guest.client.pause()) << control.Pause()
        guest >> (lambda: guest.client.unload()) << control.Unload()
        guest >> control.UnloadComplete() << ev.UnloadFinished()

    def test_what_waited_is_said_before_an_unload(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
        guest.offered(1)
        guest >> (lambda: guest.client.pause()) << control.Pause()
        # It outlives the connection, so the host has to hear of it.
        guest >> (lambda: guest.client.open_reserved(1, 5, 1, target_vp=2, target_sint=3))
        guest >> (lambda: guest.client.unload()) << control.Resume() << control.OpenReservedChannel << control.Unload()

    def test_a_socket_to_the_host(self, guest):
        guest.connect(Version.V5_3)
        endpoint, service, silo = UUID(int=1), guids.vsock_service(9), UUID(int=3)
        asked = control.TlConnectRequest2(endpoint_id=endpoint, service_id=service, silo_id=silo)
        guest >> (lambda: guest.client.tl_connect(endpoint, service, silo_id=silo)) << asked
        offer = OfferChannel(
            interface_id=service,
            instance_id=endpoint,
            flags=OfferFlags.TLNPI_PROVIDER,
            user_defined=HvsockUserDefined(is_for_guest_accept=0).build(),
            channel_id=5,
            connection_id=5,
        )
        guest >> offer << ev.ChannelOffered << ev.TlConnectFinished(endpoint, service, 5, Status.SUCCESS)
        # Another one that was not asked for is an offer like any other.
        guest >> offer.replace(channel_id=6) << ev.ChannelOffered

    def test_a_refused_socket(self, guest):
        guest.connect(Version.V5_1)
        endpoint, service = UUID(int=1), guids.vsock_service(9)
        guest >> (lambda: guest.client.tl_connect(endpoint, service))
        guest << control.TlConnectRequest(endpoint_id=endpoint, service_id=service)
        no = control.TlConnectResult(endpoint_id=endpoint, service_id=service, status=Status.CONNECTION_REFUSED)
        violated(guest >> no.replace(status=Status.SUCCESS), errors.MalformedMessage)
        guest >> no << ev.TlConnectFinished(endpoint, service, None, Status.CONNECTION_REFUSED)
        violated(guest >> no, errors.UnsolicitedMessage)

    def test_a_host_that_connects_to_the_guest(self, guest):
        guest.connect()
        (guest >> (lambda: guest.client.tl_connect(UUID(int=1), guids.vsock_service(9)))).ignore()
        offer = OfferChannel(
            interface_id=guids.vsock_service(9),
            instance_id=UUID(int=1),
            flags=OfferFlags.TLNPI_PROVIDER,
            user_defined=HvsockUserDefined(is_for_guest_accept=1).build(),
            channel_id=5,
            connection_id=5,
        )
        guest >> offer << ev.ChannelOffered
        assert guest.client.channels[5].waits is False


class TestReserved:
    def test_it_outlives_the_connection(self, guest):
        guest.connect(Version.V5_3)
        guest.offered(1)
        guest.offered(2)
        guest >> (lambda: guest.client.open_reserved(1, 5, 1, target_vp=2, target_sint=3))
        guest << control.OpenReservedChannel(
            channel_id=1, target_vp=2, target_sint=3, ring_gpadl_id=5, downstream_page_offset=1
        )
        guest >> control.OpenResult(channel_id=1, open_id=0, status=0) << ev.OpenFinished(1, Status.SUCCESS)
        with pytest.raises(errors.WrongState):
            guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))])
        (guest >> (lambda: guest.client.unload())).ignore()
        guest >> control.UnloadComplete() << ev.UnloadFinished()
        assert list(guest.client.channels) == [1]
        guest >> (lambda: guest.client.close_reserved(1, target_vp=2, target_sint=3)) << control.CloseReservedChannel
        guest >> control.CloseReservedResponse(channel_id=1) << ev.ReservedClosed(1)
        assert not guest.client.channels

    def test_it_goes_on_in_the_next_connection(self, guest):
        guest.connect(Version.V5_3)
        guest.offered(1)
        guest.offered(2)
        gpadl_id = guest.opened(1)
        guest >> (lambda: guest.client.close(1)) << control.CloseChannel
        (guest >> (lambda: guest.client.open_reserved(1, gpadl_id, 1, target_vp=2, target_sint=3))).ignore()
        (guest >> control.OpenResult(channel_id=1, open_id=0, status=0)).ignore()
        with pytest.raises(errors.WrongState):
            guest.client.teardown_gpadl(gpadl_id)
        (guest >> (lambda: guest.client.unload())).ignore()
        (guest >> control.UnloadComplete()).ignore()
        guest.connect(Version.V5_3)
        (guest >> (lambda: guest.client.close_reserved(1, target_vp=2, target_sint=3))).ignore()
        guest >> control.CloseReservedResponse(channel_id=1) << ev.ReservedClosed(1)
        assert guest.client.channels[1].state is GuestChannel.OFFERED

    def test_its_rescind_counts_even_if_it_crosses_the_unload(self, guest):
        guest.connect()
        guest.offered(1)
        guest.offered(2)
        (guest >> (lambda: guest.client.open_reserved(1, 5, 1, target_vp=2, target_sint=3))).ignore()
        (guest >> (lambda: guest.client.unload())).ignore()
        for nothing in (2, 3):
            guest >> control.RescindChannelOffer(channel_id=nothing)
        guest >> control.RescindChannelOffer(channel_id=1) << ev.OpenFinished(1, Status.UNSUCCESSFUL)
        guest << ev.ChannelRescinded(1)
        # It would come back as another offer with the same id.
        guest >> control.UnloadComplete() << ev.UnloadFinished()
        assert not guest.client.channels

    def test_a_rescinded_one_is_closed_quietly(self, guest):
        guest.connect()
        guest.offered(1)
        (guest >> (lambda: guest.client.open_reserved(1, 5, 1, target_vp=2, target_sint=3))).ignore()
        guest >> control.RescindChannelOffer(channel_id=1) << ev.OpenFinished(1, Status.UNSUCCESSFUL)
        guest << ev.ChannelRescinded(1)
        guest >> (lambda: guest.client.close_reserved(1, target_vp=2, target_sint=3))
        guest >> (lambda: guest.client.release(1)) << ev.ChannelGone(1) << control.RelIdReleased

    def test_answers_about_it_cross_its_end(self, guest):
        guest.connect()
        guest.offered(1)
        (guest >> (lambda: guest.client.open_reserved(1, 5, 1, target_vp=2, target_sint=3))).ignore()
        (guest >> control.OpenResult(channel_id=1, open_id=0, status=0)).ignore()
        (guest >> (lambda: guest.client.close_reserved(1, target_vp=2, target_sint=3))).ignore()
        guest >> control.RescindChannelOffer(channel_id=1) << ev.ReservedClosed(1) << ev.ChannelRescinded(1)
        guest >> control.CloseReservedResponse(channel_id=1)
        (guest >> (lambda: guest.client.release(1))).ignore()
        guest >> control.CloseReservedResponse(channel_id=1)

    def test_its_answers_come_while_the_next_connection_is_made_and_nothing_else_does(self, guest):
        guest.connect(Version.V5_3)
        guest.offered(1)
        (guest >> (lambda: guest.client.open_reserved(1, 5, 1, target_vp=2, target_sint=3))).ignore()
        (guest >> (lambda: guest.client.unload())).ignore()
        (guest >> control.UnloadComplete()).ignore()
        (guest >> (lambda: guest.client.connect(versions=[Version.V0_13]))).ignore()
        violated(guest >> control.RescindChannelOffer(channel_id=1), errors.UnsolicitedMessage)
        guest >> control.OpenResult(channel_id=1, open_id=0, status=1) << ev.OpenFinished
        assert not guest.client.channels

    def test_memory_that_waits_for_an_answer_is_given_up_with_the_connection(self, guest):
        guest.connect(Version.V5_3)
        guest.offered(1)
        (guest >> (lambda: guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))]))).ignore()
        (guest >> (lambda: guest.client.open_reserved(1, 5, 1, target_vp=2, target_sint=3))).ignore()
        (guest >> (lambda: guest.client.unload())).ignore()
        guest >> control.UnloadComplete() << ev.UnloadFinished()
        assert list(guest.client.channels) == [1] and not guest.client.gpadls

    def test_it_is_not_opened_while_the_channel_is_released(self, guest):
        guest.connect()
        guest.offered(1)
        (guest >> (lambda: guest.client.create_gpadl(1, [GpaRange(4096, 0, (1,))]))).ignore()
        guest >> (lambda: guest.client.release(1))
        with pytest.raises(errors.WrongState):
            guest.client.open_reserved(1, 5, 1, target_vp=2, target_sint=3)


def test_a_rescind_that_crosses_a_release_is_nothing(guest):
    guest.connect()
    guest.offered(1)
    guest >> (lambda: guest.client.release(1)) << ev.ChannelGone(1) << control.RelIdReleased(channel_id=1)
    guest >> control.RescindChannelOffer(channel_id=1)
    violated(guest >> control.RescindChannelOffer(channel_id=1), errors.UnknownChannel)
