"""Reads the text of a kernel trace: ``trace_pipe``, ``trace``, or the output of ``trace-cmd report``.

Lines that are no events (headers, lost-event marks of other tools) are passed over; an event of another system is one
that ``trace_events`` makes a note of. The texts are those of ``TP_printk`` in Linux 6.12 ``drivers/hv/hv_trace.h``
and ``drivers/net/hyperv/netvsc_trace.h``; the fields get the names of the events' structures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from vmbus.capture.importers.trace_events import Fields, TraceEvent

_LINE = re.compile(
    r"^\s*(?P<task>.+)-(?P<pid>\d+)\s+(?:\([^)]*\)\s+)?\[(?P<cpu>\d{1,5})\](?:\s+[^\s\d:]\S*|\s+\d?[a-zA-Z.]\S*)?"
    r"\s+(?P<seconds>\d{1,12})\.(?P<fraction>\d+):\s+(?P<name>\w+):\s*(?P<text>.*?)\s*$"
)
_LOST = re.compile(r"^CPU:(\d+) \[LOST (\d{1,12}) EVENTS\]")

_RAW = "[FAILED TO PARSE]"
"""trace-cmd says so where it does not understand a format (those of RNDIS events), and shows the structure's fields."""
_PAIR = re.compile(r"(\w+)=(\S+)")

_CHANNEL = r"child_relid (?P<child_relid>0x[0-9a-f]+)"
_RET = r"ret (?P<ret>-?\d+)"

_PATTERNS = {
    "vmbus_on_msg_dpc": r"msgtype=(?P<msgtype>\d+)",
    "vmbus_on_message": r"msgtype=(?P<msgtype>\d+)",
    "vmbus_onoffer": _CHANNEL
    + r", monitorid (?P<monitorid>0x[0-9a-f]+), is_dedicated (?P<is_ddc_int>\d+), connection_id"
    r" (?P<connection_id>0x[0-9a-f]+), if_type (?P<if_type>[0-9a-f-]{36}), if_instance (?P<if_instance>[0-9a-f-]{36}),"
    r" chn_flags (?P<chn_flags>0x[0-9a-f]+), mmio_megabytes (?P<mmio_mb>\d+), sub_channel_index (?P<sub_idx>\d+)",
    "vmbus_onoffer_rescind": _CHANNEL,
    "vmbus_onopen_result": _CHANNEL + r", openid (?P<openid>-?\d+), status (?P<status>-?\d+)",
    "vmbus_ongpadl_created": _CHANNEL + r", gpadl (?P<gpadl>0x[0-9a-f]+), creation_status (?P<status>-?\d+)",
    "vmbus_onmodifychannel_response": _CHANNEL + r", status (?P<status>-?\d+)",
    "vmbus_ongpadl_torndown": r"gpadl (?P<gpadl>0x[0-9a-f]+)",
    "vmbus_onversion_response": r"version_supported (?P<ver>\d+)",
    "vmbus_request_offers": r"sending " + _RET,
    "vmbus_open": r"sending " + _CHANNEL + r", openid (?P<openid>-?\d+), gpadlhandle (?P<gpadlhandle>0x[0-9a-f]+),"
    r" target_vp (?P<target_vp>0x[0-9a-f]+), offset (?P<offset>0x[0-9a-f]+), " + _RET,
    "vmbus_close_internal": r"sending " + _CHANNEL + ", " + _RET,
    "vmbus_establish_gpadl_header": r"sending " + _CHANNEL + r", gpadl (?P<gpadl>0x[0-9a-f]+),"
    r" range_buflen (?P<range_buflen>\d+) rangecount (?P<rangecount>\d+), " + _RET,
    "vmbus_establish_gpadl_body": r"sending msgnumber (?P<msgnumber>\d+), gpadl (?P<gpadl>0x[0-9a-f]+), " + _RET,
    "vmbus_teardown_gpadl": r"sending " + _CHANNEL + r", gpadl (?P<gpadl>0x[0-9a-f]+), " + _RET,
    "vmbus_negotiate_version": r"sending vmbus_version_requested (?P<ver>-?\d+), target_vcpu"
    r" (?P<target_vcpu>0x[0-9a-f]+), pages (?P<int_page>[0-9a-f]+):(?P<mon_page1>[0-9a-f]+):(?P<mon_page2>[0-9a-f]+), "
    + _RET,
    "vmbus_release_relid": r"sending " + _CHANNEL + ", " + _RET,
    "vmbus_send_tl_connect_request": r"sending guest_endpoint_id (?P<guest_id>[0-9a-f-]{36}), host_service_id"
    r" (?P<host_id>[0-9a-f-]{36}), " + _RET,
    "vmbus_send_modifychannel": r"binding " + _CHANNEL + r" to target_vp (?P<target_vp>0x[0-9a-f]+), " + _RET,
    "vmbus_chan_sched": r"relid (?P<relid>0x[0-9a-f]+)",
    "vmbus_setevent": r"relid (?P<relid>0x[0-9a-f]+)",
    "vmbus_on_event": r"relid (?P<relid>0x[0-9a-f]+)",
    "rndis_send": r"dev=(?P<name>\S+) q=(?P<queue>\d+) req=(?P<req_id>0x[0-9a-f]+|0) type=(?P<msg_type>\S+)"
    r" msg_len=(?P<msg_len>\d+)",
    "nvsp_send": r"dev=(?P<name>\S+) type=(?P<msg_type>\S+)",
    "nvsp_send_pkt": r"dev=(?P<name>\S+) qid=(?P<qid>\d+) type=(?P<channel_type>CONTROL|DATA)"
    r" section=(?P<section_index>\d+) size=(?P<section_size>-?\d+)",
    "nvsp_recv": r"dev=(?P<name>\S+) qid=(?P<qid>\d+) type=(?P<msg_type>\S+)",
}
_PATTERNS["rndis_recv"] = _PATTERNS["rndis_send"]
_EVENTS = {name: re.compile(pattern) for name, pattern in _PATTERNS.items()}

_RNDIS_TYPES = {
    "PACKET": 1, "INIT": 2, "HALT": 3, "QUERY": 4, "SET": 5, "RESET": 6, "INDICATE": 7, "KEEPALIVE": 8,
    "INIT_C": 0x80000002, "QUERY_C": 0x80000004, "SET_C": 0x80000005, "RESET_C": 0x80000006, "KEEPALIVE_C": 0x80000008,
}  # fmt: skip
_NVSP_TYPES = {
    "INIT": 1, "INIT_COMPLETE": 2, "SEND_NDIS_VER": 100, "SEND_RECV_BUF": 101, "SEND_RECV_BUF_COMPLETE": 102,
    "REVOKE_RECV_BUF": 103, "SEND_SEND_BUF": 104, "SEND_SEND_BUF_COMPLETE": 105, "REVOKE_SEND_BUF": 106,
    "SEND_RNDIS_PKT": 107, "SEND_RNDIS_PKT_COMPLETE": 108, "SEND_NDIS_CONFIG": 125, "SEND_VF_ASSOCIATION": 128,
    "SWITCH_DATA_PATH": 129, "SUBCHANNEL": 133, "SEND_INDIRECTION_TABLE": 134,
}  # fmt: skip

_PAGES = frozenset({"int_page", "mon_page1", "mon_page2"})
_TEXTS = frozenset({"name", "if_type", "if_instance", "guest_id", "host_id"})


def events_of_text(lines: Iterable[str], on_lost: Callable[[int], None] | None = None) -> Iterator[TraceEvent]:
    """The events in lines of trace text; ``on_lost`` is told how many events the kernel says it lost."""
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            lost = _LOST.match(line)
            if lost and on_lost is not None:
                on_lost(int(lost[2]))
            continue
        fraction = match["fraction"][:9]
        time_ns = int(match["seconds"]) * 1_000_000_000 + int(fraction) * 10 ** (9 - len(fraction))
        name, text = match["name"], match["text"]
        fields = _fields(name, text)
        if fields is None:
            # Of another system, or another kernel's text: nothing is guessed, and it becomes a note.
            yield TraceEvent(time_ns, int(match["cpu"]), "", f"{name} (not understood)", {}, text)
        else:
            yield TraceEvent(time_ns, int(match["cpu"]), "", name, fields, text)


def _fields(event: str, text: str) -> Fields | None:
    found = _EVENTS[event].match(text) if event in _EVENTS else None
    try:
        if event in _EVENTS and text.startswith(_RAW):
            return {name: int(value) if value.lstrip("-").isdecimal() else value for name, value in _PAIR.findall(text)}
        if found is None:
            return None
        return {field: _value(event, field, value) for field, value in found.groupdict().items()}
    except ValueError:
        return None


def _value(event: str, field: str, text: str) -> int | str:
    if field in _TEXTS:
        return text
    if field in _PAGES:
        return int(text, 16)
    if field == "channel_type":
        return int(text == "CONTROL")
    if field == "msg_type":
        names = _RNDIS_TYPES if event.startswith("rndis") else _NVSP_TYPES
        return names[text] if text in names else int(text, 0)
    return int(text, 0)
