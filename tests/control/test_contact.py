"""Which versions and features a host agrees to, and what it takes from a contact."""

from __future__ import annotations

from uuid import UUID

import pytest

from vmbus.control import host_events as ev
from vmbus.control.errors import BadMonitorPages, MessageTooShort
from vmbus.control.events import MonitorPages
from vmbus.wire import control
from vmbus.wire.control_values import ALL_FEATURES, ALL_VERSIONS, ConnectionState, FeatureFlags, Version
from vmbus.wire.schema import NIL_GUID

PAGES = {"parent_to_child_monitor_page": 0x1000, "child_to_parent_monitor_page": 0x2000}
NO = control.VersionResponse(version_supported=0)


def negotiated(version, features=0, **fields):
    given = {
        "monitor_pages": None,
        "host_monitor_pages": False,
        "interrupt_page": None,
        "target_message_vp": 0,
        "client_id": NIL_GUID,
        "trusted": False,
        **fields,
    }
    return ev.VersionNegotiated(version=version, features=FeatureFlags(features), **given)


def test_a_version_that_nobody_knows_is_refused(make_host):
    unknown = Version(0x00070000)
    make_host() >> control.InitiateContact5(version=unknown) << ev.VersionRefused(unknown) << NO


def test_a_version_above_the_limit_is_refused_and_an_older_one_accepted(make_host):
    host = make_host(max_version=Version.V4_0)
    host >> host.contact(Version.V4_1) << ev.VersionRefused(Version.V4_1) << NO
    answer = control.VersionResponse(version_supported=1, version_or_connection_id=Version.V4_0)
    host >> host.contact(Version.V4_0) << negotiated(Version.V4_0) << answer


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_below_5_0_the_answer_names_the_version_and_from_then_on_a_connection_id(make_host, version):
    host = make_host(message_connection_id=77)
    (host >> host.contact(version)) << ev.VersionNegotiated
    (answer,) = host.messages
    assert answer.version_or_connection_id == (77 if version >= Version.V5_0 else version)
    assert type(answer) is (control.VersionResponse2 if version == Version.V6_0 else control.VersionResponse)
    host.ignore()


def test_features_are_what_both_ends_have(make_host):
    mine, asked = FeatureFlags(0x0E), FeatureFlags(0x17)
    host = make_host(features=mine)
    host >> host.contact(Version.V6_0, asked) << negotiated(Version.V6_0, 0x06)
    host << control.VersionResponse2(version_supported=1, version_or_connection_id=4, features=FeatureFlags(0x06))


def test_confidential_channels_need_a_trusted_contact(make_host):
    for trusted in (False, True):
        host = make_host()
        host.trusted = trusted
        host >> host.contact(Version.V6_0, FeatureFlags.CONFIDENTIAL_CHANNELS)
        assert bool(host.server.features & FeatureFlags.CONFIDENTIAL_CHANNELS) is trusted
        assert host.server.info.trusted is trusted
        host.ignore()


def test_features_in_an_older_contact_mean_nothing(make_host):
    host = make_host()
    host >> control.InitiateContact5(version=Version.V5_3, features=ALL_FEATURES) << negotiated(Version.V5_3)
    host << control.VersionResponse


def test_a_client_id_is_taken_only_with_its_feature(make_host):
    client = UUID(int=7)
    for features, taken in ((0, NIL_GUID), (FeatureFlags.CLIENT_ID, client)):
        host = make_host()
        host >> host.contact(Version.V6_0, features, client_id=client)
        host << negotiated(Version.V6_0, features, client_id=taken) << control.VersionResponse2


def test_a_contact_with_the_feature_and_without_the_client_id_is_too_short(make_host):
    host = make_host()
    host >> control.InitiateContact5(version=Version.V6_0, features=FeatureFlags.CLIENT_ID)
    (event,) = host.events
    assert isinstance(event.error, MessageTooShort)
    host.ignore()


def test_the_target_sint_counts_from_5_0_on_another_connection_than_1(make_host):
    host = make_host()
    contact = control.InitiateContact5(version=Version.V5_0, target_sint=7, target_message_vp=3)
    host >> contact << ev.VersionRefused(Version.V5_0) << NO
    assert host.sent[0][1:] == (3, 7, 0)
    host.connection_id = 1
    host >> contact << negotiated(Version.V5_0, target_message_vp=3) << control.VersionResponse
    assert host.sent[0][1:] == (3, 2, 0)


def test_a_contact_for_another_vtl_is_handed_on_from_5_1(make_host):
    host = make_host()
    host >> control.InitiateContact5(version=Version.V5_0, target_vtl=2) << negotiated(Version.V5_0)
    host << control.VersionResponse
    host >> control.InitiateContact5(version=Version.V5_1, target_vtl=2)
    (event,) = host.events
    assert (type(event), event.vtl) == (ev.ContactForOtherVtl, 2)
    host.ignore()
    assert host.server.version == Version.V5_0


def test_a_server_of_vtl_2_answers_contacts_for_it(make_host):
    host = make_host(vtl=2)
    host >> control.InitiateContact5(version=Version.V5_1, target_vtl=2) << negotiated(Version.V5_1)
    host << control.VersionResponse
    assert host.sent[0].vtl == 2


def test_messages_go_to_processor_0_before_3_0_and_where_the_guest_says_later(make_host):
    for version, vp in ((Version.V2_4, 0), (Version.V3_0, 9)):
        host = make_host()
        host >> host.contact(version, target_message_vp=9) << negotiated(version, target_message_vp=vp)
        host << control.VersionResponse
        assert host.sent[0].vp == vp


def test_the_interrupt_page_is_used_below_2_4(make_host):
    for version, page in ((Version.V0_13, 0x3000), (Version.V1_1, 0x3000), (Version.V2_4, None)):
        host = make_host()
        host >> host.contact(version, interrupt_page=0x3000) << negotiated(version, interrupt_page=page)
        host << control.VersionResponse


def test_both_monitor_pages_or_none(make_host):
    host = make_host()
    host >> host.contact(**PAGES) << negotiated(Version.V5_3, monitor_pages=MonitorPages(0x1000, 0x2000))
    host << control.VersionResponse
    host >> host.contact(parent_to_child_monitor_page=0x1000) << ev.Disconnected() << ev.VersionRefused(Version.V5_3)
    assert isinstance(host.events.pop().error, BadMonitorPages)
    failed = ConnectionState.FAILED_UNKNOWN_FAILURE
    host << control.VersionResponse(version_supported=1, connection_state=failed, version_or_connection_id=4)
    assert host.server.version is None


def test_before_2_4_a_failure_looks_like_an_unknown_version(make_host):
    host = make_host()
    host >> host.contact(Version.V1_1, child_to_parent_monitor_page=0x1000) << ev.VersionRefused(Version.V1_1)
    host << ev.ProtocolViolation << NO


def test_pages_outside_memory_are_refused(make_host):
    for fields in ({"interrupt_page": 0xFFFF000}, {**PAGES, "child_to_parent_monitor_page": 0xFFF000}):
        host = make_host(memory_size=0xFFF800)
        host >> host.contact(Version.V1_1, **fields) << ev.VersionRefused << ev.ProtocolViolation << NO


def test_the_host_provides_monitor_pages_to_guests_that_can_use_them(make_host):
    own = MonitorPages(0x8000, 0x9000)
    flag = FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES
    host = make_host(monitor_pages=own, only_own_monitor_pages=True)
    host >> host.contact(Version.V6_0, flag, **PAGES)
    host << negotiated(Version.V6_0, flag, monitor_pages=own, host_monitor_pages=True)
    host << control.VersionResponse3(
        version_supported=1,
        version_or_connection_id=4,
        features=flag,
        parent_to_child_monitor_page=0x8000,
        child_to_parent_monitor_page=0x9000,
    )
    # Others get none, because theirs cannot be used.
    host >> host.contact(Version.V5_3, **PAGES) << ev.Disconnected() << negotiated(Version.V5_3)
    host << control.VersionResponse


def test_without_pages_of_its_own_the_host_does_not_have_the_feature(make_host):
    flag = FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES
    host = make_host()
    host >> host.contact(Version.V6_0, flag, **PAGES)
    host << negotiated(Version.V6_0, 0, monitor_pages=MonitorPages(0x1000, 0x2000)) << control.VersionResponse2


def test_a_second_contact_ends_the_first_connection(host, opening):
    host.connect().open(1)
    host >> host.contact(Version.V5_2) << ev.CloseRequested(1) << ev.GpadlTeardownRequested(1, 10)
    host << ev.ChannelReleased(1, gone=False)
    host >> (lambda: host.server.close_finished(1))
    # It is not answered before everything of the old connection is out of use.
    host >> (lambda: host.server.gpadl_torn_down(1, 10)) << ev.Disconnected() << negotiated(Version.V5_2)
    host << control.VersionResponse


def test_the_last_contact_counts_while_the_old_connection_ends(host):
    host.connect().open(1)
    (host >> host.contact(Version.V5_2)).ignore()
    host >> host.contact(Version.V4_0)
    (host >> (lambda: host.server.close_finished(1))).ignore()
    host >> (lambda: host.server.gpadl_torn_down(1, 10)) << ev.Disconnected() << negotiated(Version.V4_0)
    host << control.VersionResponse


def test_the_versions_can_be_limited_at_once_or_after_the_next_unload(make_host):
    host = make_host()
    host.server.limit(Version.V4_0, FeatureFlags(0), after_unload=True)
    host.connect(Version.V5_3)
    host >> control.Unload() << ev.Disconnected() << ev.Unloaded() << control.UnloadComplete()
    host >> host.contact(Version.V5_3) << ev.VersionRefused << NO
    host.server.limit(Version.V3_0, FeatureFlags(0))
    host >> host.contact(Version.V4_0) << ev.VersionRefused << NO
