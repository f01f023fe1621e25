"""Every format that a record can hold: the tables by which the engine chooses them, and all that lies within.

The Wireshark dissector is generated from the tables; filters and scapy find formats and fields by their names here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from dissectors.engine.dialect import EXTENSIONS, Dialect
from dissectors.engine.dialects import UNKNOWN_PIPE
from dissectors.engine.dialects.control import BODY_CASES, CONTACT_CASES, OFFER_PROPERTIES, ControlPlane
from dissectors.engine.dialects.network import Network
from dissectors.engine.dialects.plain import Plain
from dissectors.engine.dialects.storage import Storage
from dissectors.engine.inside import INSIDE
from dissectors.engine.layers import rule_for
from vmbus.wire import guids, nvsp, rndis, scsi, vpci, vstor
from vmbus.wire.capture import RECORD_FORMATS, RecordHeader, RecordKind
from vmbus.wire.control import MessageHeader
from vmbus.wire.pipe import PIPE_BODIES
from vmbus.wire.protocols import ABBREVIATIONS, GEL_INSTANCE, PROTOCOLS
from vmbus.wire.ring import PacketDescriptor, PipeHeader
from vmbus.wire.rndis_oid_formats import OID_ANSWERS
from vmbus.wire.schema import Format, FormatMeta
from vmbus.wire.scsi import capacity, disc, inquiry, mmc, primary, reservation
from vmbus.wire.scsi.sense import DescriptorSense, FixedSense

Table = Mapping[int | str, type[Format] | tuple[type[Format], ...] | str]


@dataclass(frozen=True)
class Roots:
    """Tables by name; their keys are numbers or words, their values formats or words."""

    tables: Mapping[str, Table]

    @property
    def formats(self) -> list[type[Format]]:
        """Every format that a table names."""
        found: list[type[Format]] = []
        for table in self.tables.values():
            for entry in table.values():
                if not isinstance(entry, str):
                    found += entry if isinstance(entry, tuple) else (entry,)
        return found


_CHOSEN_BY_COMMAND: tuple[type[Format], ...] = (
    inquiry.StandardInquiry, inquiry.InquiryHead, inquiry.VpdHeader, inquiry.OtherVpd, FixedSense, DescriptorSense,
    capacity.Capacity16, capacity.ShortCapacity16, capacity.LbaStatusList, capacity.LunList, capacity.LunListHead,
    primary.OneSupportedCommand, primary.SupportedCommands, reservation.ReservationKeys, reservation.Reservations,
    reservation.FullStatusList, reservation.ReserveCapabilities, reservation.ReserveInHead, mmc.Toc, mmc.TocHead,
    disc.DvdPhysical, disc.DvdCopyright, disc.DiscInformation, disc.LengthHead, disc.TrackInformation,
    disc.TrackInformationHead,
)  # fmt: skip
"""Answers that depend on more of a command than its code; ``records.lua`` chooses as ``response_format`` does."""


def _table(entries: Mapping[int, type[Format] | tuple[type[Format], ...]]) -> Table:
    return {int(key): found for key, found in entries.items()}


def roots() -> Roots:
    """The tables of every protocol that the engine knows."""
    commands = {code: bytes([code]).ljust(16, b"\0") for code in range(256)}
    plain = {code: found for code, cdb in commands.items() if (found := scsi.response_format(cdb)) is not None}
    sent = {code: found for code, cdb in commands.items() if (found := scsi.parameter_format(cdb)) is not None}
    return Roots(
        {
            "records": {int(kind): fmt for kind, fmt in RECORD_FORMATS.items()},
            "heads": {"record": RecordHeader, "message": MessageHeader, "descriptor": PacketDescriptor},
            "extensions": {int(kind): fmt for kind, fmt in EXTENSIONS.items()},
            "bodies": _table(BODY_CASES),
            "contacts": _table(CONTACT_CASES),
            "dialects": {str(interface): protocol.abbreviation for interface, protocol in PROTOCOLS.items()},
            "framing": {p.abbreviation: p.framing.name for p in (*ABBREVIATIONS.values(), UNKNOWN_PIPE)},
            "to_host": {name: p.guest_to_host for name, p in ABBREVIATIONS.items() if p.guest_to_host},
            "to_guest": {name: p.host_to_guest for name, p in ABBREVIATIONS.items() if p.host_to_guest},
            "pipe": {"header": PipeHeader},
            "offers": {str(interface): fmt for interface, fmt in OFFER_PROPERTIES.items()},
            "gel": {"instance": str(GEL_INSTANCE), "socket": str(guids.VSOCK_TEMPLATE)},
            "vpci_completions": _table(dict(vpci.VPCI_COMPLETIONS)),
            "vpci": {"status": vpci.StatusCompletion, "empty": vpci.EmptyCompletion},
            "vstor": {"request": vstor.VstorRequest, "plain": vstor.PlainCompletion},
            "vstor_completions": _table(dict(vstor.COMPLETION_FORMATS)),
            "scsi_answers": {fmt.__name__: fmt for fmt in _CHOSEN_BY_COMMAND},
            "scsi_plain_answers": _table(plain),
            "scsi_parameters": _table(sent),
            "scsi_vpd": _table(dict(inquiry.VPD_FORMATS)),
            "nvsp": {"message": nvsp.NvspMessage, "completion": nvsp.NvspCompletion},
            "rndis": {"to_host": rndis.RndisMessage, "to_guest": rndis.RndisReceivedMessage},
            "oid_answers": _table(dict(OID_ANSWERS)),
        }
    )


def reachable(formats: Iterable[type[Format]]) -> list[type[Format]]:
    """These formats and all that occur in them, each once."""
    found: dict[type[Format], None] = {}
    waiting = list(formats)
    while waiting:
        fmt = waiting.pop(0)
        if fmt in found:
            continue
        found[fmt] = None
        for field in fmt.FIELDS:
            if isinstance(field.element, FormatMeta):
                waiting.append(field.element)
            for case in (field.cases or {}).values():
                waiting += case if isinstance(case, tuple) else (case,)
            rule = rule_for(fmt, field.name, INSIDE)
            if rule is not None:
                waiting += [*rule.cases.values(), *([rule.default] if rule.default else [])]
    return list(found)


@cache
def known_formats() -> tuple[type[Format], ...]:
    """Every format that a record can hold, however deep."""
    return tuple(reachable(roots().formats))


_PACKET, _EXTERNAL = int(RecordKind.PACKET), int(RecordKind.EXTERNAL)
_CONTENTS: dict[tuple[type[Dialect], int], tuple[str, ...]] = {
    (ControlPlane, int(RecordKind.MESSAGE)): ("heads", "bodies", "contacts"),
    (Storage, _PACKET): ("vstor", "vstor_completions"),
    (Storage, _EXTERNAL): ("scsi_answers", "scsi_plain_answers", "scsi_parameters", "scsi_vpd"),
    (Network, _PACKET): ("nvsp",),
    (Network, _EXTERNAL): ("rndis", "oid_answers"),
    (Plain, _PACKET): ("pipe", "vpci_completions", "vpci"),
    (Plain, _EXTERNAL): (),
    (Dialect, _PACKET): (),
    (Dialect, _EXTERNAL): (),
    (Dialect, int(RecordKind.MESSAGE)): (),
}
"""The tables of what lies behind the head of a record, by dialect and kind of record."""


def possible_formats(dialect: Dialect, kind: int) -> frozenset[type[Format]] | None:
    """Every format that the layers of such a record can be of; None if the dialect is not described here."""
    contents = _CONTENTS.get((type(dialect), kind))
    if contents is None and kind in (_PACKET, _EXTERNAL, RecordKind.MESSAGE):
        return None
    found = _formats_of(kind, contents or ())
    if isinstance(dialect, Plain):
        protocol = dialect.protocol
        found |= {fmt for fmt in (protocol.guest_to_host, protocol.host_to_guest) if fmt is not None}
    return found


@cache
def _formats_of(kind: int, contents: tuple[str, ...]) -> frozenset[type[Format]]:
    tables = roots().tables
    found = Roots({name: tables[name] for name in contents}).formats
    found.append(RECORD_FORMATS.get(kind, RecordHeader))
    if kind == _PACKET:
        found += [PacketDescriptor, *EXTENSIONS.values(), *PIPE_BODIES.values()]
    return frozenset(found)
