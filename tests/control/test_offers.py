"""What a host offers to which guest, under which ids, in which order."""

from __future__ import annotations

from uuid import UUID

import pytest

from vmbus.control import errors
from vmbus.control import host_events as ev
from vmbus.control.offers import OfferTraits
from vmbus.wire import control, guids
from vmbus.wire.control_values import INTERRUPTS_DISABLED, NO_MONITOR, FeatureFlags, Version
from vmbus.wire.offer import HvsockUserDefined, OfferChannel, OfferFlags, PipeFlags, PipeType, PipeUserDefined

PAGES = {"parent_to_child_monitor_page": 0x1000, "child_to_parent_monitor_page": 0x2000}
CONFIDENTIAL = OfferFlags.CONFIDENTIAL_RING_BUFFER | OfferFlags.CONFIDENTIAL_EXTERNAL_MEMORY


def offers(host):
    """Ask for the offers."""
    host >> control.RequestOffers()
    found = [message for message in host.messages if isinstance(message, OfferChannel)]
    host.ignore()
    return found


def test_an_offer_says_what_the_device_is(make_host):
    host = make_host()
    traits = OfferTraits(user_defined=b"xyz", mmio_megabytes=8, mmio_megabytes_optional=2)
    host.server.offer(guids.NETWORK, UUID(int=5), traits, subchannel_index=0)
    (host >> host.contact()).ignore()
    (offer,) = offers(host)
    assert offer == OfferChannel(
        interface_id=guids.NETWORK,
        instance_id=UUID(int=5),
        mmio_megabytes=8,
        mmio_megabytes_optional=2,
        user_defined=b"xyz".ljust(120, b"\0"),
        channel_id=1,
        connection_id=0x2001,
    )


def test_offers_are_sent_only_once_and_later_ones_by_themselves(host):
    host.connect()
    host >> control.RequestOffers()
    assert type(host.events.pop().error) is errors.OffersAlreadySent
    host >> (lambda: host.offer(2)) << OfferChannel


def test_a_device_that_is_offered_before_the_guest_asks_waits_for_it(host):
    (host >> host.contact()).ignore()
    host >> (lambda: host.offer(2))
    assert [offer.channel_id for offer in offers(host)] == [1, 2]


def test_subchannels_are_channels_of_the_same_device(host):
    second = host.server.offer(guids.SCSI, UUID(int=1), subchannel_index=1)
    (host >> host.contact()).ignore()
    assert [(o.channel_id, o.subchannel_index) for o in offers(host)] == [(1, 0), (second, 1)]


def test_ids_stay_the_same_across_connections(host):
    host.offer(2)
    for _ in range(2):
        (host >> host.contact()).ignore()
        assert [(o.instance_id.int, o.channel_id) for o in offers(host)] == [(1, 1), (2, 2)]
        (host >> control.Unload()).ignore()


def test_devices_with_an_order_come_first(make_host):
    host = make_host()
    host.offer(1)
    host.offer(2, order=7)
    host.offer(3, order=3)
    (host >> host.contact()).ignore()
    assert [offer.instance_id.int for offer in offers(host)] == [3, 2, 1]


def test_another_server_of_the_guest_may_have_the_lower_ids(make_host):
    host = make_host(first_channel_id=1024, vtl=2)
    assert host.offer(1) == 1024
    assert host.server.offers.channels[1024].connection_id == 2 << 16 | 2 << 12 | 1024


def test_there_are_2047_channels(make_host):
    host = make_host()
    assert [host.offer(number) for number in range(2047)] == list(range(1, 2048))
    with pytest.raises(errors.TooManyChannels):
        host.offer(2047)
    (host >> (lambda: host.server.rescind(77))).ignore()
    assert host.offer(2047) == 77


@pytest.mark.parametrize(
    ("features", "trusted", "left"),
    [
        (0, False, OfferFlags(0)),
        (FeatureFlags.CONFIDENTIAL_CHANNELS, False, OfferFlags(0)),
        (FeatureFlags.CONFIDENTIAL_CHANNELS, True, CONFIDENTIAL),
        (FeatureFlags.GPA_PINNING, False, OfferFlags.REQUIRE_PINNED_EXTERNAL_MEMORY),
    ],
)
def test_flags_that_the_connection_does_not_know_are_left_out(make_host, features, trusted, left):
    host = make_host()
    host.trusted = trusted
    host.offer(1, flags=CONFIDENTIAL | OfferFlags.REQUIRE_PINNED_EXTERNAL_MEMORY | OfferFlags.NAMED_PIPE_MODE)
    (host >> host.contact(Version.V6_0, features)).ignore()
    assert offers(host)[0].flags == left | OfferFlags.NAMED_PIPE_MODE


def test_a_monitored_channel_says_so_to_guests_with_monitor_pages(make_host, opening):
    host = make_host()
    host.offer(1)
    host.offer(2, monitor_latency=100)
    host.offer(3, monitor_latency=200)
    (host >> host.contact()).ignore()
    assert {offer.monitor_id for offer in offers(host)} == {NO_MONITOR}
    (host >> host.contact(**PAGES)).ignore()
    assert [(o.monitor_id, o.monitor_allocated) for o in offers(host)] == [(NO_MONITOR, 0), (0, 1), (1, 1)]
    host >> opening(3)
    assert host.events.pop().params.monitor == ev.MonitorUse(1, 200)


def test_a_polling_guest_does_not_use_the_monitor_page(make_host, opening):
    host = make_host()
    host.offer(1, monitor_latency=100)
    host.connect(**PAGES)
    host >> opening(1, target_vp=INTERRUPTS_DISABLED)
    assert host.events.pop().params.monitor is None


def test_monitor_ids_run_out_and_come_back(make_host):
    host = make_host()
    for number in range(129):
        host.offer(number, monitor_latency=1)
    assert host.server.offers.channels[129].monitor_id is None
    (host >> (lambda: host.server.rescind(5))).ignore()
    assert host.server.offers.channels[host.offer(200, monitor_latency=1)].monitor_id == 4


def test_a_relayed_channel_keeps_the_monitor_id_of_its_host(make_host, opening):
    host = make_host()
    host.offer(1, relayed_monitor_id=99)
    host.connect(**PAGES)
    assert host.server.offers.monitors.in_use == 0
    host >> opening(1)
    assert host.events.pop().params.monitor is None, "the other host polls for it"


def test_a_device_that_comes_back_may_have_changed(make_host):
    host = make_host()
    host.offer(1, monitor_latency=100)
    host.connect(**PAGES)
    (host >> (lambda: host.server.rescind(1))).ignore()
    host.offer(1, mmio_megabytes=3)
    host >> control.RelIdReleased(channel_id=1) << ev.ChannelReleased(1, gone=False)
    assert (host.messages[0].mmio_megabytes, host.messages[0].monitor_id) == (3, NO_MONITOR)
    host.ignore()
    assert host.server.offers.monitors.in_use == 0


def test_a_pipe_says_in_its_offer_what_it_carries():
    traits = OfferTraits.pipe(PipeType.BYTE, user_defined=b"abc", gpa_direct=True)
    layout = PipeUserDefined.parse(traits.user_defined)
    assert traits.flags == OfferFlags.ENUMERATE_DEVICE_INTERFACE | OfferFlags.NAMED_PIPE_MODE
    assert (layout.pipe_type, layout.user_defined[:4], layout.flags) == (PipeType.BYTE, b"abc\0", PipeFlags.GPA_DIRECT)
    assert PipeUserDefined.parse(OfferTraits.pipe().user_defined).pipe_type is PipeType.MESSAGE


def test_a_socket_says_in_its_offer_who_connects():
    silo = UUID(int=3)
    traits = OfferTraits.hvsocket(to_guest=True, container=True, silo_id=silo)
    layout = HvsockUserDefined.parse(traits.user_defined)
    assert traits.flags & OfferFlags.TLNPI_PROVIDER
    assert (layout.is_for_guest_accept, layout.is_for_guest_container, layout.silo_id) == (1, 1, silo)


@pytest.mark.parametrize(
    ("version", "aware", "silo"),
    [(Version.V4_0, False, 0), (Version.V5_1, False, 0), (Version.V5_2, True, 9), (Version.V5_3, True, 9)],
)
def test_a_guest_asks_for_a_socket(host, version, aware, silo):
    host.connect(version)
    asked = control.TlConnectRequest2(endpoint_id=UUID(int=1), service_id=UUID(int=2), silo_id=UUID(int=9))
    host >> asked << ev.TlConnectRequested(UUID(int=1), UUID(int=2), UUID(int=silo), not aware)


def test_a_newer_guest_may_still_send_the_short_request(host):
    host.connect(Version.V5_3)
    asked = control.TlConnectRequest(endpoint_id=UUID(int=1), service_id=UUID(int=2))
    host >> asked << ev.TlConnectRequested(UUID(int=1), UUID(int=2), UUID(int=0), False)


def test_a_refused_socket_is_said_from_4_1_on_and_success_never(host):
    ids = {"endpoint_id": UUID(int=1), "service_id": UUID(int=2)}
    for version, answers in ((Version.V4_0, False), (Version.V4_1, True)):
        (host >> host.contact(version)).ignore()
        host >> control.TlConnectRequest(**ids) << ev.TlConnectRequested
        host >> (lambda: host.server.tl_connect_result(**ids, success=True))
        host >> control.TlConnectRequest(**ids) << ev.TlConnectRequested
        host >> (lambda: host.server.tl_connect_result(**ids, success=False))
        if answers:
            host << control.TlConnectResult(**ids, status=0xC0000236)
        host >> (lambda: host.server.tl_connect_result(**ids, success=False)) << ev.StrayReply


def test_a_socket_is_answered_once_and_to_the_guest_that_asked(host):
    ids = {"endpoint_id": UUID(int=1), "service_id": UUID(int=2)}
    host.connect()
    host >> control.TlConnectRequest(**ids) << ev.TlConnectRequested
    host >> control.TlConnectRequest(**ids)
    host >> (lambda: host.server.offer(UUID(int=2), UUID(int=1), OfferTraits.hvsocket(to_guest=False))) << OfferChannel
    host >> (lambda: host.server.tl_connect_result(**ids, success=False)) << ev.StrayReply
    ids["endpoint_id"] = UUID(int=3)
    host >> control.TlConnectRequest(**ids) << ev.TlConnectRequested
    (host >> host.contact()).ignore()
    host >> (lambda: host.server.tl_connect_result(**ids, success=False)) << ev.StrayReply


def test_a_trusted_connection_hears_no_untrusted_message(host):
    host.trusted = True
    host.connect(Version.V6_0)
    host.trusted = False
    for message in (control.Unload(), host.contact(), control.RelIdReleased(channel_id=1)):
        host >> message
        assert type(host.events.pop().error) is errors.UntrustedMessage
    host.trusted = True
    (host >> control.Unload()).ignore()
    assert host.server.version is None


def test_an_untrusted_connection_may_be_followed_by_a_trusted_one(host):
    host.connect(Version.V6_0)
    host.trusted = True
    host.connect(Version.V6_0)
    assert host.server.info.trusted
