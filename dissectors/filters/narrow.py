"""Filters over columns: which records of a span can fit, which do for certain, all at once and without decoding one.

Every term of a filter has two masks. One that the columns decide has the same mask twice; one on a field of a format
can fit where a record may hold that format (of a completion: its request may), and never fits for certain. Masks are
joined as the terms are, so a filter decodes only what its other terms and the protocols leave in doubt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dissectors.engine.channels import ChannelLife
from dissectors.engine.dialect import COMPLETION, Dialect
from dissectors.engine.dialects.control import ControlPlane
from dissectors.engine.formats import possible_formats
from dissectors.engine.span import Span
from vmbus.wire.capture import Direction, RecordKind
from vmbus.wire.schema import Format

Mask = NDArray[np.bool_]

_PACKET, _EXTERNAL, _MESSAGE = int(RecordKind.PACKET), int(RecordKind.EXTERNAL), int(RecordKind.MESSAGE)
_KINDS = 8
_CONTROL, _UNKNOWN = ControlPlane(), Dialect()


class Verdict(NamedTuple):
    """Of each record of a span."""

    may: Mask
    """It can fit the filter."""
    must: Mask
    """It does; a part of ``may``."""


Narrow = Callable[[Span], Verdict]


class Column(NamedTuple):
    """The values of a field of records."""

    values: NDArray[Any]
    present: Mask | None = None
    """Which records have it; None: all."""
    texts: list[str | None] | None = None
    """Of text: what the values, which are places in this list, stand for; None: nothing."""
    unsure: Mask | None = None
    """Which records have values of their own, which are not these."""


def by_column(read: Callable[[Span], Column], holds: Callable[[Any], Any]) -> Narrow:
    """A term on a field that the columns have; ``holds`` takes a text, or an array of numbers."""

    def narrow(span: Span) -> Verdict:
        column = read(span)
        if column.texts is None:
            fits = np.asarray(holds(column.values), np.bool_)
        else:
            table = np.array([text is not None and bool(holds(text)) for text in column.texts], np.bool_)
            fits = table[column.values]
        if column.present is not None:
            fits = fits & column.present
        unsure = span.unsure() if column.unsure is None else span.unsure() | column.unsure
        return Verdict(fits | unsure, fits & ~unsure)

    return narrow


def by_formats(can_hold: Callable[[type[Format], str], bool], speaks: str = "") -> Narrow:
    """A term on what is in a record: it can fit where a format that can hold it can occur.

    ``can_hold`` is asked with a format and a protocol's name. What speaks the protocol ``speaks`` fits for certain.
    """
    known: dict[tuple[type[Dialect], str, int], bool] = {}

    def can(dialect: Dialect, kind: int) -> bool:
        key = type(dialect), dialect.name, kind
        if key not in known:
            formats = possible_formats(dialect, kind)
            name = protocol_name(dialect, kind)
            known[key] = formats is None or any(can_hold(fmt, name) for fmt in formats)
        return known[key]

    def narrow(span: Span) -> Verdict:
        columns = span.columns
        codes, lives = span.lives()
        place = _place(span, codes)
        table = np.zeros((len(lives), _KINDS), np.bool_)
        certain = np.zeros((len(lives), _KINDS), np.bool_)
        for code, life in enumerate(lives):
            for kind in range(_KINDS):
                dialect = _dialect(life, kind)
                certain[code, kind] = bool(speaks) and protocol_name(dialect, kind) == speaks
                table[code, kind] = certain[code, kind] or can(dialect, kind)
        may, must = table.ravel()[place], certain.ravel()[place]
        may |= _requests_can(span, table, codes)
        unsure = span.unsure()
        return Verdict(may | unsure, must & ~unsure & (columns.kind != _MESSAGE))

    return narrow


def _requests_can(span: Span, table: Mask, codes: NDArray[np.int32]) -> Mask:
    """Which completions can have it from their requests; one that began before the span can be of any kind."""
    columns = span.columns
    requests = span.partners().requests
    completes: Mask = (columns.kind == _PACKET) & (columns.subtype == COMPLETION) & (requests >= 0)
    inside = np.flatnonzero(completes & (requests >= span.first))
    completes[inside] = table[codes[requests[inside] - span.first], _PACKET]
    return completes


def _dialect(life: ChannelLife | None, kind: int) -> Dialect:
    if kind == _MESSAGE:
        return _CONTROL
    return life.dialect if life is not None else _UNKNOWN


def protocol_name(dialect: Dialect, kind: int) -> str:
    """What ``Decoded.protocol`` is."""
    return dialect.name if kind in (_PACKET, _EXTERNAL, _MESSAGE, 0) else str(RecordKind(kind)).lower()


def all_of(terms: list[Narrow]) -> Narrow:
    """Every term fits."""

    def narrow(span: Span) -> Verdict:
        may, must = terms[0](span)
        for term in terms[1:]:
            if not may.any():
                break
            other = term(span)
            may, must = may & other.may, must & other.must
        return Verdict(may, must & may)

    return narrow


def any_of(terms: list[Narrow]) -> Narrow:
    """One of the terms fits."""

    def narrow(span: Span) -> Verdict:
        may, must = terms[0](span)
        for term in terms[1:]:
            other = term(span)
            may, must = may | other.may, must | other.must
        return Verdict(may, must)

    return narrow


def negated(term: Narrow) -> Narrow:
    """The term does not fit."""

    def narrow(span: Span) -> Verdict:
        may, must = term(span)
        return Verdict(~must, ~may)

    return narrow


def undecided(span: Span) -> Verdict:
    """Of a term that the columns know nothing about."""
    return Verdict(np.ones(len(span), np.bool_), np.zeros(len(span), np.bool_))


# The columns of fields


def numbers(span: Span) -> Column:
    return Column(np.arange(span.first + 1, span.first + len(span) + 1, dtype=np.int64))


def kinds(span: Span) -> Column:
    return Column(span.columns.kind, texts=["none", *(str(RecordKind(kind)).lower() for kind in range(1, 256))])


def directions(span: Span) -> Column:
    names: dict[int, str] = {Direction.GUEST_TO_HOST: "to_host", Direction.HOST_TO_GUEST: "to_guest"}
    return Column(span.columns.direction, texts=[names.get(code) for code in range(256)])


def transactions(span: Span) -> Column:
    return Column(span.columns.transaction_id)


def latencies(span: Span) -> Column:
    partners = span.partners()
    is_packet = span.columns.kind == _PACKET
    return Column(partners.latency, is_packet & ((partners.requests >= 0) | (partners.responses >= 0)))


def requests(span: Span) -> Column:
    found = span.partners().requests
    return Column(found + 1, found >= 0)


def responses(span: Span) -> Column:
    found = span.partners().responses
    return Column(found + 1, found >= 0)


def channel_ids(span: Span) -> Column:
    return Column(span.columns.channel, unsure=_messages(span))


def channel_names(span: Span) -> Column:
    codes, lives = span.lives()
    return Column(codes, texts=[_channel_name(life) for life in lives], unsure=_messages(span))


def _channel_name(life: ChannelLife | None) -> str:
    return f"{life.channel_id} {life.name}" if life is not None and life.channel_id else "0 control"


def protocols(span: Span) -> Column:
    codes, lives = span.lives()
    texts: list[str | None] = [protocol_name(_dialect(life, kind), kind) for life in lives for kind in range(_KINDS)]
    return Column(_place(span, codes), texts=texts, unsure=_messages(span))


def _messages(span: Span) -> Mask:
    """Control messages: which channel they are about is not in the columns."""
    found: Mask = span.columns.kind == _MESSAGE
    return found


def _place(span: Span, codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Life and kind of each record as one number."""
    found: NDArray[np.int32] = codes * _KINDS + np.minimum(span.columns.kind, _KINDS - 1)
    return found
