"""The host's and the guest's control plane across a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import UUID

import pytest

from vmbus.control import errors
from vmbus.control import guest_events as gev
from vmbus.control import host_events as ev
from vmbus.control.client import ControlClient
from vmbus.control.events import MonitorPages
from vmbus.control.host_states import HostChannel, HostConnection
from vmbus.control.offers import OfferTraits
from vmbus.control.server import ControlServer
from vmbus.control.server_base import ServerConfig
from vmbus.gpadl import GpaRange
from vmbus.wire import control, guids
from vmbus.wire.control_values import ConnectionState, FeatureFlags, Status, Version
from vmbus.wire.offer import OfferChannel, OfferFlags

PAGES = {"parent_to_child_monitor_page": 0x1000, "child_to_parent_monitor_page": 0x2000}


def restart(host, **config):
    """The same host in another process: its state goes through JSON text."""
    state = json.loads(json.dumps(host.server.save()))
    host.server = ControlServer(ServerConfig(**config))
    host.server.restore(state)
    return host


def offer_again(host, number=1, **traits):
    return host.server.offer(guids.SCSI, UUID(int=number), OfferTraits(**traits))


def state(host, channel_id=1):
    return host.server.offers.channels[channel_id].state


def go_on(host, *, is_open):
    """The device of channel 1 is back."""
    assert offer_again(host) == 1
    return host >> (lambda: host.server.channel_restored(1, is_open=is_open))


def finish(host):
    return host >> (lambda: host.server.finish_restore())


class TestHost:
    def test_without_a_connection(self, host):
        go_on(restart(host), is_open=False)
        finish(host)
        host.connect()

    def test_a_guest_that_has_not_asked_for_offers_yet(self, host):
        (host >> host.contact()).ignore()
        go_on(restart(host), is_open=False)
        finish(host)
        host >> control.RequestOffers() << ev.OffersRequested() << OfferChannel << control.AllOffersDelivered()

    def test_an_open_channel_goes_on(self, host):
        host.connect(Version.V6_0, 0xFC, **PAGES).open(1)
        before = host.server.info
        restart(host)
        assert host.server.info == before
        go_on(host, is_open=True)
        opened = host.server.restored_open(1)
        assert (opened.params.ring_gpadl_id, opened.params.target_vp) == (10, 0)
        assert host.server.restored_gpadls(1) == [ev.GpadlRequested(1, 10, (GpaRange(4096, 0, (1,)),))]
        finish(host)
        host >> control.CloseChannel(channel_id=1) << ev.CloseRequested(1)

    def test_a_closed_channel_is_not_open_after_it_either(self, host):
        host.connect()
        go_on(restart(host), is_open=False)
        assert host.server.restored_open(1) is None
        finish(host)

    @pytest.mark.parametrize("was_open", [False, True])
    def test_guest_and_device_must_agree_whether_it_is_open(self, host, was_open):
        host.connect()
        if was_open:
            host.open(1)
        restart(host)
        offer_again(host)
        with pytest.raises(errors.BadSavedState):
            host.server.channel_restored(1, is_open=not was_open)

    def test_an_open_request_is_asked_again(self, host, opening):
        host.connect().share(1)
        (host >> opening(1, open_id=3)).ignore()
        go_on(restart(host), is_open=False) << ev.OpenRequested
        finish(host)
        host >> (lambda: host.server.open_finished(1)) << control.OpenResult(channel_id=1, open_id=3, status=0)

    def test_a_device_may_have_opened_without_having_said_so(self, host, opening):
        host.connect().share(1)
        (host >> opening(1)).ignore()
        go_on(restart(host), is_open=True) << control.OpenResult(channel_id=1, open_id=0, status=0)
        finish(host)

    @pytest.mark.parametrize("reopen", [False, True])
    def test_a_close_request_is_asked_again_or_done(self, host, opening, reopen):
        host.connect().open(1)
        (host >> control.CloseChannel(channel_id=1)).ignore()
        if reopen:
            (host >> opening(1)).ignore()
        saved = host.server.save()
        go_on(restart(host), is_open=True) << ev.CloseRequested(1)
        host.server = ControlServer()
        host.server.restore(saved)
        go_on(host, is_open=False)
        if reopen:
            host << ev.OpenRequested
        finish(host)
        assert state(host) is (HostChannel.OPENING if reopen else HostChannel.OFFERED)

    def test_a_channel_that_no_device_claims_is_rescinded(self, host):
        host.connect().open(1)
        finish(restart(host)) << control.RescindChannelOffer(channel_id=1)
        (host >> control.RelIdReleased(channel_id=1)).ignore()
        assert not host.server.offers.channels

    def test_a_channel_whose_device_begins_anew_is_offered_anew(self, host):
        host.connect().open(1)
        restart(host)
        offer_again(host)
        finish(host) << control.RescindChannelOffer(channel_id=1)
        host >> control.RelIdReleased(channel_id=1) << ev.ChannelReleased(1, gone=False) << OfferChannel

    def test_a_channel_the_guest_does_not_know_goes_silently(self, host):
        finish(restart(host)) << ev.ChannelReleased(1, gone=True)

    def test_new_devices_are_offered_at_once(self, host):
        host.connect()
        go_on(restart(host), is_open=False)
        host >> (lambda: offer_again(host, 2)) << OfferChannel
        host >> (lambda: host.server.channel_restored(2, is_open=False))
        with pytest.raises(errors.BadSavedState):
            host.server.channel_restored(2, is_open=True)
        finish(host)

    def test_a_rescinded_channel_stays_rescinded_and_its_device_may_come_back(self, host):
        host.connect()
        (host >> (lambda: host.server.rescind(1))).ignore()
        finish(restart(host))
        assert state(host) is HostChannel.RESCINDED
        offer_again(host)
        # Saved as reoffered, it waits for the device once more.
        finish(restart(host))
        assert state(host) is HostChannel.RESCINDED
        offer_again(host)
        host >> control.RelIdReleased(channel_id=1) << ev.ChannelReleased(1, gone=False) << OfferChannel

    def test_memory_is_asked_for_again(self, host, page):
        host.connect().share(1, 10)
        (host >> page(1, 11)).ignore()
        (host >> control.GpadlTeardown(channel_id=1, gpadl_id=10)).ignore()
        go_on(restart(host), is_open=False)
        finish(host) << ev.GpadlTeardownRequested(1, 10) << ev.GpadlRequested
        host >> (lambda: host.server.gpadl_torn_down(1, 10)) << control.GpadlTorndown(gpadl_id=10)
        host >> (lambda: host.server.gpadl_created(1, 11)) << control.GpadlCreated(channel_id=1, gpadl_id=11, status=0)

    def test_a_description_in_progress_goes_on(self, host):
        host.connect()
        host >> control.GpadlHeader(channel_id=1, gpadl_id=4, range_bytes=32, range_count=1, words=(3 * 4096, 7))
        go_on(restart(host), is_open=False)
        finish(host)
        host >> control.GpadlBody(gpadl_id=4, words=(8, 9))
        host << ev.GpadlRequested(1, 4, (GpaRange(3 * 4096, 0, (7, 8, 9)),))

    def test_words_without_a_meaning_do_not_hinder(self, host):
        host.connect()
        host >> control.GpadlHeader(channel_id=1, gpadl_id=4, range_bytes=24, range_count=1, words=(4096, 7, 0))
        host << ev.GpadlRequested
        go_on(restart(host), is_open=False)
        finish(host) << ev.GpadlRequested(1, 4, (GpaRange(4096, 0, (7,)),))

    def test_a_modification_is_asked_again(self, host):
        host.connect(Version.V5_3).open(1)
        (host >> control.ModifyChannel(channel_id=1, target_vp=7)).ignore()
        go_on(restart(host), is_open=True)
        finish(host) << ev.ModifyChannelRequested(1, 7)
        answer = control.ModifyChannelResponse(channel_id=1, status=Status.SUCCESS)
        host >> (lambda: host.server.modify_finished(1)) << answer

    def test_messages_that_were_not_taken_are_still_there(self, host):
        host.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
        host.server.put_back(host.sent)
        (host >> (lambda: None)).ignore()
        host.server.put_back(host.sent)
        before = len(host.sent)
        host.server.receive(bytes([27]) + bytes(7))
        host.server.rescind(1)
        restart(host)
        assert len(host.server._outbox.pending()) == before + 2
        assert [m.payload[0] for m in host.server.outgoing()][-1] == 28, "the rescind is held"
        host >> control.Resume() << ev.Resumed() << control.RescindChannelOffer(channel_id=1)

    def test_devices_that_were_letting_go_have_let_go(self, host, opening):
        host.offer(2)
        host.connect().open(1).share(2, 20)
        (host >> opening(2, 20)).ignore()
        (host >> control.Unload()).ignore()
        restart(host)
        for number in (1, 2):
            offer_again(host, number)
            host >> (lambda n=number: host.server.channel_restored(n, is_open=False))
        finish(host) << ev.Disconnected() << ev.Unloaded() << control.UnloadComplete()
        assert host.server.connection is HostConnection.DISCONNECTED

    def test_a_contact_that_waits_for_the_old_connection(self, host):
        host.connect().open(1)
        (host >> host.contact(Version.V4_0)).ignore()
        go_on(restart(host), is_open=False)
        finish(host) << ev.Disconnected() << ev.VersionNegotiated << control.VersionResponse
        assert host.server.version == Version.V4_0

    def test_a_socket_is_asked_for_again(self, host):
        host.connect()
        ids = {"endpoint_id": UUID(int=1), "service_id": UUID(int=2)}
        (host >> control.TlConnectRequest2(**ids, silo_id=UUID(int=3))).ignore()
        go_on(restart(host), is_open=False)
        finish(host) << ev.TlConnectRequested(UUID(int=1), UUID(int=2), UUID(int=3), False)
        host >> (lambda: host.server.tl_connect_result(**ids, success=False)) << control.TlConnectResult
        # A state from before that was kept has none.
        saved = host.server.save()
        del saved["tl_requests"]
        ControlServer().restore(saved)

    def test_limits_are_kept(self, host):
        host.server.limit(Version.V4_0, FeatureFlags(0))
        host.server.limit(Version.V3_0, FeatureFlags(0), after_unload=True)
        go_on(restart(host), is_open=False)
        finish(host)
        assert host.server.max_version == Version.V4_0
        host >> control.Unload() << ev.Unloaded() << control.UnloadComplete()
        assert host.server.max_version == Version.V3_0

    def test_a_reserved_channel_without_a_connection(self, host):
        host.connect().share(1)
        reserved = control.OpenReservedChannel(
            channel_id=1, target_vp=2, target_sint=3, ring_gpadl_id=10, downstream_page_offset=1
        )
        (host >> reserved).ignore()
        (host >> (lambda: host.server.open_finished(1))).ignore()
        (host >> control.Unload()).ignore()
        go_on(restart(host), is_open=True)
        finish(host)
        close = control.CloseReservedChannel(channel_id=1, target_vp=4, target_sint=5)
        host >> close << ev.CloseRequested(1)
        for limit in ({"max_version": Version.V4_1}, {"features": FeatureFlags(0)}):
            channel = host.server.offers.channels[1]
            channel.reserved = replace(channel.reserved, version=Version.V6_0, features=FeatureFlags(1))
            with pytest.raises(errors.BadSavedState):
                ControlServer(ServerConfig(**limit)).restore(host.server.save())

    def test_a_reserved_channel_whose_device_begins_anew_without_a_connection(self, host):
        host.connect().share(1)
        reserved = control.OpenReservedChannel(
            channel_id=1, target_vp=2, target_sint=3, ring_gpadl_id=10, downstream_page_offset=1
        )
        (host >> reserved).ignore()
        (host >> control.Unload()).ignore()
        offer_again(restart(host))
        finish(host) << ev.ChannelReleased(1, gone=False) << control.OpenResult
        assert state(host) is HostChannel.RELEASED

    def test_a_reserved_channel_that_another_kernel_was_not_offered(self, host):
        host.connect().share(1)
        reserved = control.OpenReservedChannel(
            channel_id=1, target_vp=2, target_sint=3, ring_gpadl_id=10, downstream_page_offset=1
        )
        (host >> reserved).ignore()
        (host >> (lambda: host.server.open_finished(1))).ignore()
        host.connect(Version.V0_13)
        restart(host)
        # Its device does not come back, and the second kernel never knew of it.
        finish(host)
        assert state(host) is HostChannel.RESCINDED

    def test_a_state_that_does_not_say_whether_a_reserved_channel_has_outlived_its_connection(self, host):
        host.connect().share(1)
        reserved = control.OpenReservedChannel(
            channel_id=1, target_vp=2, target_sint=3, ring_gpadl_id=10, downstream_page_offset=1
        )
        (host >> reserved).ignore()
        saved = host.server.save()
        del saved["channels"][0]["reserved_is_orphan"]
        host.server = ControlServer()
        host.server.restore(saved)
        assert not host.server.offers.channels[1].reserved.is_orphan

    def test_what_a_relay_had_not_confirmed_is_asked_again(self, make_host):
        host = make_host(confirm=True)
        host.offer(1)
        (host >> host.contact(Version.V6_0, FeatureFlags.MODIFY_CONNECTION)).ignore()
        restart(host, confirm=True)
        offer_again(host)
        finish(host) << ev.ContactRequested
        host >> (lambda: host.server.contact_finished()) << ev.VersionNegotiated << control.VersionResponse2
        (host >> control.ModifyConnection()).ignore()
        restart(host, confirm=True)
        offer_again(host)
        finish(host) << ev.ModifyConnectionRequested(None)
        done = control.ModifyConnectionResponse(connection_state=ConnectionState.SUCCESSFUL)
        host >> (lambda: host.server.modify_connection_finished()) << done
        host >> control.Unload() << ev.Disconnected()
        restart(host, confirm=True)
        offer_again(host)
        finish(host) << ev.Disconnected()
        host >> (lambda: host.server.disconnect_finished()) << ev.Unloaded() << control.UnloadComplete()

    def test_a_host_that_no_longer_asks_answers_itself(self, make_host):
        host = make_host(confirm=True)
        host.offer(1)
        (host >> host.contact()).ignore()
        restart(host)
        offer_again(host)
        finish(host) << ev.VersionNegotiated << control.VersionResponse

    def test_monitor_ids_are_kept_and_must_fit(self, make_host):
        host = make_host()
        host.offer(1)
        host.offer(2, monitor_latency=5)
        host.offer(3, relayed_monitor_id=77)
        host.connect(**PAGES)
        restart(host)
        assert host.server.offers.monitors.in_use == 1
        assert offer_again(host, 2, monitor_latency=5) == 2
        with pytest.raises(errors.BadSavedState):
            offer_again(host, 3, relayed_monitor_id=78)
        assert offer_again(host, 3, relayed_monitor_id=77) == 3

    def test_a_guest_that_signals_through_the_page_is_still_heard_when_the_device_does_not_ask_for_it(self, make_host):
        host = make_host()
        host.offer(1, monitor_latency=5)
        host.connect(**PAGES).open(1)
        restart(host)
        offer_again(host, 1)
        opened = host.server.restored_open(1)
        assert (opened.params.monitor.monitor_id, opened.params.monitor.latency) == (0, 5)

    def test_not_during_a_reset_or_a_restore(self, host):
        host.connect().open(1)
        saved = host.server.save()
        (host >> (lambda: host.server.reset())).ignore()
        with pytest.raises(errors.WrongState):
            host.server.save()
        with pytest.raises(errors.WrongState):
            host.server.restore(saved)
        other = ControlServer()
        other.restore(saved)
        with pytest.raises(errors.WrongState):
            other.save()

    @pytest.mark.parametrize(
        ("version", "features", "config"),
        [
            (Version.V5_3, 0, {"max_version": Version.V5_2}),
            (Version.V6_0, 4, {"features": FeatureFlags(3)}),
        ],
    )
    def test_a_host_with_other_limits_does_not_go_on(self, host, version, features, config):
        host.connect(version, features)
        with pytest.raises(errors.BadSavedState):
            ControlServer(ServerConfig(**config)).restore(host.server.save())

    @pytest.mark.parametrize(
        ("version", "features", "config"),
        [
            (Version.V5_3, 0, {"max_version": Version.V5_3, "features": FeatureFlags(0)}),
            (Version.V6_0, 0, {"features": FeatureFlags(0)}),
            (Version.V6_0, 0x21, {"features": FeatureFlags(0x23)}),
        ],
    )
    def test_a_host_with_other_limits_goes_on_within_them(self, host, version, features, config):
        host.connect(version, features).share(1)
        reserved = control.OpenReservedChannel(
            channel_id=1, target_vp=2, target_sint=3, ring_gpadl_id=10, downstream_page_offset=1
        )
        (host >> reserved).ignore()
        go_on(restart(host, **config), is_open=True) << control.OpenResult
        finish(host)
        assert (host.server.version, host.server.features) == (version, features)

    def test_damage_is_one_clear_error(self, host, page):
        host.offer(2, monitor_latency=1, flags=OfferFlags.NAMED_PIPE_MODE)
        host.connect().open(1).share(2, 20)
        good = host.server.save()

        def refused(change) -> None:
            state = json.loads(json.dumps(good))
            change(state)
            with pytest.raises(errors.BadSavedState):
                ControlServer().restore(state)

        ControlServer().restore(json.loads(json.dumps(good)))
        refused(lambda s: s.update(format="something else"))
        refused(lambda s: s.update(format_version=99))
        refused(lambda s: s.update(connection="NOWHERE"))
        refused(lambda s: s.update(info=None))
        refused(lambda s: s.pop("channels"))
        refused(lambda s: s["info"].update(version=0x70000))
        refused(lambda s: s["info"].update(features=1))
        refused(lambda s: s["info"].update(target_message_vp=-1))
        refused(lambda s: s["channels"][0].update(channel_id=0))
        refused(lambda s: s["channels"][0].update(channel_id=2))
        refused(lambda s: s["channels"][0].update(instance_id=s["channels"][1]["instance_id"]))
        refused(lambda s: s["channels"][1].update(monitor_id=128))
        refused(lambda s: s["channels"][0].update(monitor_id=0))
        refused(lambda s: s["channels"][0].update(request={"open_id": "x"}))
        refused(lambda s: s["gpadls"][0].update(channel_id=9))
        refused(lambda s: s["gpadls"].append(s["gpadls"][0]))
        refused(lambda s: s["gpadls"][0].update(ranges="00"))
        refused(lambda s: s["gpadls"][0].update(state="IN_PROGRESS"))
        refused(lambda s: s["ready_messages"].append(["00" * 241, 0, 2, 0]))
        refused(lambda s: s["ready_messages"].append(["00", 0, 2]))
        host.ignore()


class TestGuest:
    def test_an_open_channel_goes_on(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.MODIFY_CONNECTION | FeatureFlags.PAUSE_RESUME)
        guest.offered(1)
        gpadl_id = guest.opened(1)
        state = json.loads(json.dumps(guest.client.save()))
        guest.client = ControlClient()
        guest.client.restore(state)
        guest >> (lambda: guest.client.close(1)) << control.CloseChannel(channel_id=1)
        (guest >> (lambda: guest.client.teardown_gpadl(gpadl_id))).ignore()
        guest >> control.GpadlTorndown(gpadl_id=gpadl_id) << gev.GpadlTornDown(1, gpadl_id)

    def test_a_redirected_event_flag_is_kept(self, guest):
        guest.connect(Version.V6_0, 0x3)
        for channel_id in (4, 5):
            guest.offered(channel_id)
        (guest >> (lambda: guest.client.open(5, 1, 0, redirect_interrupt=True))).ignore()
        state = json.loads(json.dumps(guest.client.save()))
        guest.client = ControlClient()
        guest.client.restore(state)
        assert guest.client.channels[5].redirected_flag == 1
        (guest >> (lambda: guest.client.open(4, 1, 0, redirect_interrupt=True))).ignore()
        assert guest.client.channels[4].redirected_flag == 2

    def test_a_state_of_a_program_that_did_not_count_event_flags(self, guest):
        guest.connect()
        guest.offered(1)
        state = guest.client.save()
        for key in ("event_flag", "is_redirected"):
            del state["channels"][0][key]
        guest.client = ControlClient()
        guest.client.restore(state)
        assert guest.client.channels[1].redirected_flag is None

    def test_questions_are_answered_afterwards(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.MODIFY_CONNECTION)
        guest.offered(1)
        guest.client.tl_connect(UUID(int=1), guids.vsock_service(3))
        guest.client.modify_connection(MonitorPages(1, 2))
        unsent = [message.payload for message in guest.client._outbox]
        state = json.loads(json.dumps(guest.client.save()))
        guest.client = ControlClient()
        guest.client.restore(state)
        assert [message.payload for message in guest.client.outgoing()] == unsent
        done = control.ModifyConnectionResponse(connection_state=0)
        guest >> done << gev.ConnectionModified(ConnectionState.SUCCESSFUL)
        no = control.TlConnectResult(
            endpoint_id=UUID(int=1), service_id=guids.vsock_service(3), status=Status.CONNECTION_REFUSED
        )
        guest >> no << gev.TlConnectFinished

    def test_a_rescinded_channel_is_released_afterwards(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
        guest.offered(1)
        guest.opened(1)
        (guest >> (lambda: guest.client.modify_channel(1, 1))).ignore()
        (guest >> control.RescindChannelOffer(channel_id=1)).ignore()
        guest >> (lambda: guest.client.pause()) << control.Pause()
        guest >> (lambda: guest.client.release(1)) << gev.ChannelGone(1)
        state = json.loads(json.dumps(guest.client.save()))
        guest.client = ControlClient()
        guest.client.restore(state)
        assert guest.client.save() == state and not guest.client.channels
        # The host answers late, and before it hears of the pause.
        guest >> control.ModifyChannelResponse(channel_id=1, status=0)
        guest >> control.PauseResponse() << gev.HostSilent()
        guest >> (lambda: guest.client.resume()) << control.Resume() << control.RelIdReleased(channel_id=1)

    def test_a_pause_goes_on(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
        guest >> (lambda: guest.client.pause()) << control.Pause()
        guest.client.tl_connect(UUID(int=1), UUID(int=2))
        state = json.loads(json.dumps(guest.client.save()))
        guest.client = ControlClient()
        guest.client.restore(state)
        guest >> control.PauseResponse() << gev.HostSilent()
        guest >> (lambda: guest.client.resume()) << control.Resume() << control.TlConnectRequest2

    def test_without_a_connection(self):
        client = ControlClient()
        client.restore(ControlClient().save())
        assert client.version is None

    def test_a_short_offer_is_kept(self, guest):
        from vmbus.wire.offer import OfferChannelPre7

        guest.connect(Version.V0_13)
        old = OfferChannelPre7(interface_id=guids.SCSI, instance_id=UUID(int=2), channel_id=4)
        (guest >> old).ignore()
        state = guest.client.save()
        guest.client = ControlClient()
        guest.client.restore(state)
        assert guest.client.channels[4].offer == old

    def test_not_while_a_version_is_negotiated_or_into_a_used_client(self, guest):
        saved = guest.client.save()
        (guest >> (lambda: guest.client.connect())).ignore()
        with pytest.raises(errors.WrongState):
            guest.client.save()
        with pytest.raises(errors.WrongState):
            guest.client.restore(saved)

    def test_damage_is_one_clear_error(self, guest):
        guest.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
        guest.offered(1)
        guest.opened(1)
        good = guest.client.save()

        def refused(change) -> None:
            state = json.loads(json.dumps(good))
            change(state)
            with pytest.raises(errors.BadSavedState):
                ControlClient().restore(state)

        refused(lambda s: s.update(format="something else"))
        refused(lambda s: s.update(format_version=99))
        refused(lambda s: s.update(connection="NOWHERE"))
        refused(lambda s: s.update(version=None))
        refused(lambda s: s.update(version=0x70000))
        refused(lambda s: s.update(version=0x50003))
        refused(lambda s: s.pop("channels"))
        refused(lambda s: s["channels"].append(s["channels"][0]))
        refused(lambda s: s["channels"][0].update(offer="00"))
        refused(lambda s: s["channels"][0]["gpadls"].append(s["channels"][0]["gpadls"][0]))
        refused(lambda s: s["messages"].append(["00" * 241, 4]))
