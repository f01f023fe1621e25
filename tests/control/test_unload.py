"""How connections end: unload from every state, and reset."""

from __future__ import annotations

import pytest

from vmbus.control import errors
from vmbus.control import host_events as ev
from vmbus.control.events import MonitorPages
from vmbus.control.host_states import HostChannel, HostConnection
from vmbus.wire import control
from vmbus.wire.control_values import ConnectionState, Version


def test_unload_without_a_connection_is_confirmed_too(host):
    host >> control.Unload() << ev.Unloaded() << control.UnloadComplete()


def test_unload_of_an_idle_connection(host):
    host.connect()
    host >> control.Unload() << ev.ChannelReleased(1, gone=False) << ev.Disconnected() << ev.Unloaded()
    host << control.UnloadComplete()
    assert host.server.connection is HostConnection.DISCONNECTED


def test_a_host_of_0_13_cannot_confirm(host):
    host.connect(Version.V0_13)
    (host >> control.Unload()) << ev.ChannelReleased << ev.Disconnected() << ev.Unloaded()


def test_unload_waits_for_devices_and_memory(host):
    host.connect().open(1)
    host >> control.Unload() << ev.CloseRequested(1) << ev.GpadlTeardownRequested(1, 10) << ev.ChannelReleased
    host >> (lambda: host.server.gpadl_torn_down(1, 10))
    host >> (lambda: host.server.close_finished(1)) << ev.Disconnected() << ev.Unloaded() << control.UnloadComplete()


def test_unload_waits_for_a_device_that_opens(host, opening):
    host.connect().share(1)
    (host >> opening(1)).ignore()
    (host >> control.Unload()).ignore()
    (host >> (lambda: host.server.gpadl_torn_down(1, 10))).ignore()
    # Too late: it has to close again.
    host >> (lambda: host.server.open_finished(1)) << ev.CloseRequested(1)
    host >> (lambda: host.server.close_finished(1)) << ev.Disconnected() << ev.Unloaded() << control.UnloadComplete()


def test_unload_waits_for_memory_that_a_device_has_not_answered_for(host, page):
    host.connect()
    for refused in (False, True):
        (host >> page(1, 10)).ignore()
        (host >> control.Unload()).ignore()
        if refused:
            host >> (lambda: host.server.gpadl_refused(1, 10))
        else:
            host >> (lambda: host.server.gpadl_created(1, 10)) << ev.GpadlTeardownRequested(1, 10)
            host >> (lambda: host.server.gpadl_torn_down(1, 10))
        host << ev.Disconnected() << ev.Unloaded() << control.UnloadComplete()
        host.connect()


def test_unload_forgets_a_description_in_progress(host):
    host.connect()
    host >> control.GpadlHeader(channel_id=1, gpadl_id=4, range_bytes=24, range_count=1, words=(8192,))
    (host >> control.Unload()).ignore()
    assert host.server.connection is HostConnection.DISCONNECTED
    assert not host.server.gpadls


def test_nothing_but_unload_and_contact_is_heard_while_a_connection_ends(host):
    host.connect().open(1)
    (host >> control.Unload()).ignore()
    host >> control.RequestOffers()
    assert isinstance(host.events.pop().error, errors.UnsupportedMessage)
    host >> control.Unload()


def test_a_device_that_failed_to_open_holds_nothing_up(host, opening):
    host.connect()
    (host >> opening(1)).ignore()
    (host >> control.Unload()).ignore()
    from vmbus.wire.control_values import Status

    host >> (lambda: host.server.open_finished(1, Status.UNSUCCESSFUL))
    host << ev.Disconnected() << ev.Unloaded() << control.UnloadComplete()


def test_reset_closes_everything_and_forgets_what_was_not_sent(host):
    host.connect().open(1)
    host.server.rescind
    host >> (lambda: host.server.reset()) << ev.CloseRequested(1) << ev.GpadlTeardownRequested(1, 10)
    host << ev.ChannelReleased
    assert host.server.is_resetting
    with pytest.raises(errors.WrongState):
        host.server.reset()
    host >> control.Unload()
    assert isinstance(host.events.pop().error, errors.MessageDuringReset)
    host >> (lambda: host.server.gpadl_torn_down(1, 10))
    host >> (lambda: host.server.close_finished(1)) << ev.Disconnected() << ev.ResetFinished()


def test_reset_does_not_wait_for_a_device_that_opens(host, opening):
    host.connect()
    (host >> opening(1)).ignore()
    host >> (lambda: host.server.reset()) << ev.ChannelReleased << ev.Disconnected() << ev.ResetFinished()
    host >> (lambda: host.server.open_finished(1)) << ev.StrayReply
    # Nor if an unload waits for it already.
    host.connect()
    (host >> opening(1)).ignore()
    (host >> control.Unload()).ignore()
    host >> (lambda: host.server.reset()) << ev.Disconnected() << ev.ResetFinished()


def test_reset_forgets_a_description_in_progress_and_its_id_is_free(host):
    host.connect()
    begun = control.GpadlHeader(channel_id=1, gpadl_id=4, range_bytes=24, range_count=1, words=(8192,))
    host >> begun
    (host >> (lambda: host.server.reset())).ignore()
    assert not host.server.gpadls
    host.connect()
    host >> begun
    host >> control.GpadlBody(gpadl_id=4, words=(1, 2)) << ev.GpadlRequested


def test_reset_without_a_connection_is_finished_at_once(host):
    host >> (lambda: host.server.reset()) << ev.ResetFinished()


def test_reset_ends_a_pause(host):
    from vmbus.wire.control_values import FeatureFlags

    host.connect(Version.V6_0, FeatureFlags.PAUSE_RESUME)
    (host >> control.Pause()).ignore()
    (host >> (lambda: host.server.reset())).ignore()
    assert host.connect().server.version == Version.V5_3


class TestConfirmed:
    """A host that asks another host first: a relay."""

    @pytest.fixture
    def relay(self, make_host):
        made = make_host(confirm=True)
        made.offer(1)
        return made

    def test_a_contact_waits_for_our_own_side(self, relay):
        relay >> relay.contact() << ev.ContactRequested
        relay >> (lambda: relay.server.contact_finished()) << ev.VersionNegotiated << control.VersionResponse

    def test_features_of_the_other_side_and_our_own(self, relay):
        from vmbus.wire.control_values import ALL_FEATURES, FeatureFlags

        (relay >> relay.contact(Version.V6_0, ALL_FEATURES)).ignore()
        other = FeatureFlags.PAUSE_RESUME
        (relay >> (lambda: relay.server.contact_finished(features=other))).ignore()
        assert relay.server.features == other | FeatureFlags.CLIENT_ID | FeatureFlags.GPA_PINNING

    def test_monitor_pages_of_the_other_side_need_the_feature(self, relay):
        pages = MonitorPages(0x1000, 0x2000)
        (relay >> relay.contact(Version.V6_0)).ignore()
        (relay >> (lambda: relay.server.contact_finished(monitor_pages=pages))).ignore()
        assert relay.server.info.monitor_pages is None

    def test_the_other_side_may_not_speak_the_version(self, relay):
        (relay >> relay.contact()).ignore()
        relay >> (lambda: relay.server.contact_unsupported()) << ev.VersionRefused(Version.V5_3)
        relay << control.VersionResponse(version_supported=0)

    def test_the_other_side_may_fail(self, relay):
        low = ConnectionState.FAILED_LOW_RESOURCES
        (relay >> relay.contact()).ignore()
        relay >> (lambda: relay.server.contact_finished(low)) << ev.VersionRefused(Version.V5_3)
        relay << control.VersionResponse(version_supported=1, connection_state=low, version_or_connection_id=4)
        relay >> relay.contact() << ev.ContactRequested

    @pytest.mark.parametrize("answer", ["accept", "fail", "unsupported"])
    def test_an_unload_while_it_waits_is_done_afterwards(self, relay, answer):
        (relay >> relay.contact()).ignore()
        relay >> control.Unload()
        if answer == "accept":
            relay >> (lambda: relay.server.contact_finished()) << ev.VersionNegotiated << ev.Disconnected()
            relay << control.VersionResponse
            relay >> (lambda: relay.server.disconnect_finished())
        elif answer == "fail":
            failed = ConnectionState.FAILED_UNKNOWN_FAILURE
            relay >> (lambda: relay.server.contact_finished(failed)) << ev.VersionRefused << control.VersionResponse
        else:
            relay >> (lambda: relay.server.contact_unsupported()) << ev.VersionRefused << control.VersionResponse
        relay << ev.Unloaded() << control.UnloadComplete()

    def test_another_contact_while_it_waits_is_done_afterwards(self, relay):
        (relay >> relay.contact()).ignore()
        relay >> relay.contact(Version.V4_0)
        relay >> (lambda: relay.server.contact_finished()) << ev.VersionNegotiated << ev.Disconnected()
        relay << control.VersionResponse
        relay >> (lambda: relay.server.disconnect_finished()) << ev.ContactRequested
        relay >> (lambda: relay.server.contact_finished()) << ev.VersionNegotiated << control.VersionResponse
        assert relay.server.version == Version.V4_0

    def test_a_reset_while_it_waits_is_done_afterwards(self, relay):
        (relay >> relay.contact()).ignore()
        relay >> (lambda: relay.server.reset())
        (relay >> (lambda: relay.server.contact_finished())).ignore()
        relay >> (lambda: relay.server.disconnect_finished()) << ev.ResetFinished()

    def test_the_end_of_a_connection_waits_for_our_own_side(self, relay):
        (relay >> relay.contact()).ignore()
        (relay >> (lambda: relay.server.contact_finished())).ignore()
        relay >> control.Unload() << ev.Disconnected()
        relay >> (lambda: relay.server.disconnect_finished()) << ev.Unloaded() << control.UnloadComplete()


def test_channels_are_released_states(host):
    assert [s for s in HostChannel if s.is_released] == [
        HostChannel.RELEASED,
        HostChannel.OPENING_RELEASED,
        HostChannel.CLOSING_RELEASED,
    ]
