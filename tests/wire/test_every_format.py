"""The faces of every declared format agree, over values that nobody chose."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmbus.testing.formats import all_formats, values_of
from vmbus.wire.construct_face import construct_of
from vmbus.wire.numpy_face import dtype_of
from vmbus.wire.schema import Format, Kind, Truncated, WireError
from vmbus.wire.tree import Node, walk

FORMATS = all_formats()
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: f"{fmt.__module__[11:]}.{fmt.__name__}")
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def plain(value: Any) -> Any:
    """A value as construct gives it, or as ours, in one common shape: dicts, lists, bytes, integers and GUIDs."""
    if isinstance(value, Format):
        return {f.name: plain(getattr(value, f.name)) for f in value.FIELDS if f.is_stored}
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, item in value.items():
            if key.startswith("_bits_"):
                found |= plain(item)
            elif not key.startswith("_"):
                found[key] = plain(item)
        return found
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value if isinstance(value, (bytes, UUID)) else int(value)


def from_tree(node: Node) -> Any:
    """What a decode tree says, in the same shape."""
    if node.format is not None:
        stored = [c for c in node.children if c.field is None or c.field.kind is not Kind.LOCATED]
        return {child.name: from_tree(child) for child in stored}
    if node.value is None:
        return [from_tree(child) for child in node.children]
    return plain(node.value)


def stored_problems(node: Node) -> list[str]:
    """What is wrong with the bytes themselves, whatever offsets into them say."""
    if node.field is not None and node.field.kind is Kind.LOCATED:
        return []
    below = [problem for child in node.children for problem in stored_problems(child)]
    return [node.problem, *below] if node.problem else below


@every_format
def test_a_built_value_parses_back_to_its_bytes_and_codec_construct_tree_and_numpy_agree(fmt: type[Format]) -> None:
    construct, dtype = construct_of(fmt), dtype_of(fmt)

    @few
    @given(values_of(fmt))
    def check(drawn: Format) -> None:
        wire = drawn.build()
        value, end = fmt.parse_prefix(b"\xff" * 3 + wire, 3)
        assert value.build() == wire and end == 3 + len(wire)
        parsed = construct.parse(wire)
        assert plain(parsed) == plain(value)
        assert construct.build(parsed) == wire
        node, end = walk(fmt, wire)
        assert from_tree(node) == plain(value)
        assert end == len(wire)
        assert not stored_problems(node)
        row = np.frombuffer(wire[: fmt.SIZE], dtype)[0] if fmt.SIZE else {}
        for field in fmt.FIELDS:
            if field.kind is Kind.INT and field.size in (1, 2, 4, 8):
                assert row[field.name] == getattr(value, field.name)

    check()


@every_format
def test_bytes_cut_short_raise_truncated_and_nothing_else(fmt: type[Format]) -> None:
    @few
    @given(values_of(fmt), st.data())
    def check(value: Format, data: st.DataObject) -> None:
        wire = value.build()
        if not wire:
            return
        cut = data.draw(st.integers(0, len(wire) - 1))
        try:
            parsed = fmt.parse(wire[:cut])
        except Truncated:
            assert walk(fmt, wire, 0, cut)[0].problems()
        else:
            assert not fmt.IS_FIXED and wire.startswith(parsed.build())

    check()


@every_format
def test_any_bytes_parse_or_raise_the_typed_error_and_the_tree_never_raises(fmt: type[Format]) -> None:
    @few
    @given(st.binary(max_size=fmt.SIZE + 80), st.data())
    def check(noise: bytes, data: st.DataObject) -> None:
        noise = noise.ljust(data.draw(st.integers(0, fmt.SIZE + 80)), data.draw(st.binary(min_size=1, max_size=1)))
        node, end = walk(fmt, noise)
        assert 0 <= end <= len(noise)
        try:
            value, after = fmt.parse_prefix(noise)
        except WireError:
            assert node.problems()
        else:
            assert value.build() == noise[:after]
            assert (end, from_tree(node)) == (after, plain(value))

    check()
