"""MODIFY_CHANNEL, MODIFY_CONNECTION, PAUSE and RESUME at the host."""

from __future__ import annotations

import pytest

from vmbus.control import errors
from vmbus.control import host_events as ev
from vmbus.control.events import MonitorPages
from vmbus.wire import control
from vmbus.wire.control_values import (
    INTERRUPTS_DISABLED,
    ConnectionState,
    FeatureFlags,
    Status,
    Version,
)

MODIFY, PAUSE = FeatureFlags.MODIFY_CONNECTION, FeatureFlags.PAUSE_RESUME


def violated(host, rule):
    event = host.events.pop()
    assert type(event.error) is rule, event
    return host


def modify(vp, channel_id=1):
    return control.ModifyChannel(channel_id=channel_id, target_vp=vp)


def answer(status=Status.SUCCESS):
    return control.ModifyChannelResponse(channel_id=1, status=status)


def test_another_processor_from_5_3_with_an_answer(host):
    host.connect(Version.V5_3).open(1)
    host >> modify(3) << ev.ModifyChannelRequested(1, 3)
    host >> (lambda: host.server.modify_finished(1)) << answer()


def test_another_processor_before_5_3_without_an_answer_and_the_last_one_counts(host):
    host.connect(Version.V4_1).open(1)
    host >> modify(3) << ev.ModifyChannelRequested(1, 3)
    host >> modify(4)
    host >> modify(5)
    host >> (lambda: host.server.modify_finished(1)) << ev.ModifyChannelRequested(1, 5)
    host >> (lambda: host.server.modify_finished(1))


def test_a_guest_of_5_3_waits_for_the_answer(host):
    host.connect(Version.V5_3).open(1)
    (host >> modify(3)).ignore()
    violated(host >> modify(4), errors.ModifyInProgress)
    host >> (lambda: host.server.modify_finished(1)) << answer()


def test_a_channel_has_to_be_open(host):
    host.connect(Version.V5_3)
    violated(host >> modify(3), errors.IllegalChannelState) << answer(Status.UNSUCCESSFUL)
    violated(host >> modify(3, 9), errors.UnknownChannel)
    host << control.ModifyChannelResponse(channel_id=9, status=Status.UNSUCCESSFUL)


def test_a_modification_that_crosses_a_rescind_is_refused_and_no_violation(host):
    host.connect(Version.V5_3).open(1)
    (host >> (lambda: host.server.rescind(1))).ignore()
    host >> modify(3) << answer(Status.UNSUCCESSFUL)


def test_interrupts_are_neither_disabled_nor_enabled_in_this_way(host):
    host.connect(Version.V5_3).open(1, target_vp=INTERRUPTS_DISABLED)
    violated(host >> modify(3), errors.InterruptsDisabled) << answer(Status.UNSUCCESSFUL)
    violated(host >> modify(INTERRUPTS_DISABLED), errors.InvalidTargetVp) << answer(Status.UNSUCCESSFUL)


def test_a_close_answers_a_modification(host):
    host.connect(Version.V5_3).open(1)
    (host >> modify(3)).ignore()
    (host >> control.CloseChannel(channel_id=1)).ignore()
    host >> (lambda: host.server.close_finished(1)) << answer(Status.UNSUCCESSFUL)


def test_a_modification_finished_while_the_channel_closes_starts_no_other(host):
    host.connect(Version.V4_1).open(1)
    (host >> modify(3)).ignore()
    (host >> modify(4)).ignore()
    (host >> control.CloseChannel(channel_id=1)).ignore()
    host >> (lambda: host.server.modify_finished(1))


def test_other_monitor_pages(host):
    host.connect(Version.V6_0, MODIFY)
    change = control.ModifyConnection(parent_to_child_monitor_page=0x1000, child_to_parent_monitor_page=0x2000)
    done = control.ModifyConnectionResponse(connection_state=ConnectionState.SUCCESSFUL)
    host >> change << ev.ModifyConnectionRequested(MonitorPages(0x1000, 0x2000)) << done
    host >> control.ModifyConnection() << ev.ModifyConnectionRequested(None) << done
    assert host.server.info.monitor_pages is None


def test_one_monitor_page_without_the_other_is_refused(host):
    host.connect(Version.V6_0, MODIFY)
    failed = control.ModifyConnectionResponse(connection_state=ConnectionState.FAILED_UNKNOWN_FAILURE)
    violated(host >> control.ModifyConnection(parent_to_child_monitor_page=0x1000), errors.BadMonitorPages) << failed


def test_monitor_pages_of_the_host_are_not_changed(make_host):
    flags = MODIFY | FeatureFlags.SERVER_SPECIFIED_MONITOR_PAGES
    host = make_host(monitor_pages=MonitorPages(1, 2)).connect(Version.V6_0, flags)
    failed = control.ModifyConnectionResponse(connection_state=ConnectionState.FAILED_UNKNOWN_FAILURE)
    violated(host >> control.ModifyConnection(), errors.BadMonitorPages) << failed


def test_monitor_pages_outside_memory_are_refused(make_host):
    host = make_host(memory_size=0x10000).connect(Version.V6_0, MODIFY)
    failed = control.ModifyConnectionResponse(connection_state=ConnectionState.FAILED_UNKNOWN_FAILURE)
    change = control.ModifyConnection(parent_to_child_monitor_page=0x1000, child_to_parent_monitor_page=0xF800)
    violated(host >> change, errors.BadMonitorPages) << failed


def test_a_relay_answers_a_modification_later_and_only_one_at_a_time(make_host):
    host = make_host(confirm=True)
    (host >> host.contact(Version.V6_0, MODIFY)).ignore()
    (host >> (lambda: host.server.contact_finished())).ignore()
    host >> control.ModifyConnection() << ev.ModifyConnectionRequested(None)
    violated(host >> control.ModifyConnection(), errors.BadMonitorPages)
    host >> (lambda: host.server.modify_connection_finished())
    host << control.ModifyConnectionResponse(connection_state=ConnectionState.SUCCESSFUL)


def test_a_modification_is_not_answered_after_the_connection(make_host):
    host = make_host(confirm=True)
    (host >> host.contact(Version.V6_0, MODIFY)).ignore()
    (host >> (lambda: host.server.contact_finished())).ignore()
    host >> control.ModifyConnection() << ev.ModifyConnectionRequested(None)
    host >> control.Unload() << ev.Disconnected()
    host >> (lambda: host.server.modify_connection_finished()) << ev.StrayReply


@pytest.mark.parametrize("message", [control.ModifyConnection(), control.Pause(), control.Resume()])
def test_without_the_feature_there_is_no_such_message(host, message):
    host.connect(Version.V6_0)
    violated(host >> message, errors.UnsupportedMessage)


def test_a_pause_holds_everything_back_until_resume(host):
    host.connect(Version.V6_0, PAUSE)
    host >> control.Pause() << ev.Paused() << control.PauseResponse()
    host >> (lambda: host.server.rescind(1))
    violated(host >> control.RelIdReleased(channel_id=1), errors.MessageWhilePaused)
    host >> control.Resume() << ev.Resumed() << control.RescindChannelOffer(channel_id=1)


def test_unload_and_contact_end_a_pause(host):
    for end in (control.Unload(), host.contact(Version.V5_3)):
        host.connect(Version.V6_0, PAUSE)
        (host >> control.Pause()).ignore()
        (host >> end) << ev.Resumed()
        assert host.messages
        host.ignore()


def test_resume_without_a_pause_means_nothing(host):
    host.connect(Version.V6_0, PAUSE)
    host >> control.Resume()
