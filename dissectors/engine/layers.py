"""From layers to a tree: which format lies where in a record, and what lies inside the bytes of some fields.

A record is described by a flat list of :class:`Layer` (record header, descriptor, extension, VSTOR packet ...), each a
format of ``vmbus.wire`` at an offset. Some formats hold a field of bytes that are themselves of a format: a command
block, sense data, the user-defined bytes of an offer; ``dissectors.engine.inside`` lists them. Both are data, because
the Wireshark dissector is generated from them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vmbus.wire.expression import evaluate, expression
from vmbus.wire.schema import Buffer, Format
from vmbus.wire.tree import Node, walk


class Layer(NamedTuple):
    """A format at ``start`` of a record's bytes, with ``stop`` as its end at most."""

    format: type[Format] | None
    """None for bytes that are no format of ours: see ``name``."""
    start: int
    stop: int
    name: str = ""
    """How bytes without a format are called: ``payload``, ``text``, ``padding``, ``extension``, ``unknown``."""
    within: tuple[tuple[str, type[Format]], ...] = ()
    """Fields of bytes whose format only the conversation knows: names and formats."""


@dataclass(frozen=True)
class Inside:
    """The bytes of a field are of a format, chosen by an expression over the fields beside it or by the first byte."""

    cases: Mapping[int, type[Format]]
    on: str | None = None
    """None: the first byte of the bytes themselves, and ``mask`` of it."""
    mask: int = 0xFF
    default: type[Format] | None = field(default=None)

    def choose(self, data: Buffer, start: int, stop: int, beside: Mapping[str, object]) -> type[Format] | None:
        if self.on is not None:
            return self.cases.get(evaluate(expression(self.on), beside), self.default)
        return self.cases.get(data[start] & self.mask, self.default) if stop > start else None


def build_tree(data: Buffer, layers: list[Layer], inside: Mapping[tuple[type[Format], str], Inside]) -> Node:
    """The tree of a record: one child for each layer."""
    root = Node("record", None, 0, len(data))
    for layer in layers:
        root.children.append(_layer_node(data, layer, inside))
    return root


def _layer_node(data: Buffer, layer: Layer, inside: Mapping[tuple[type[Format], str], Inside]) -> Node:
    if layer.format is None:
        return Node(layer.name, bytes(data[layer.start : layer.stop]), layer.start, layer.stop - layer.start)
    node, _ = walk(layer.format, data, layer.start, layer.stop)
    _deepen(data, node, inside, dict(layer.within))
    return node


def _deepen(
    data: Buffer,
    node: Node,
    inside: Mapping[tuple[type[Format], str], Inside],
    within: Mapping[str, type[Format]],
) -> None:
    """Decode the bytes of those fields that hold a format of their own."""
    beside: dict[str, object] = {}
    for child in node.children:
        if child.format is not None or child.children:
            _deepen(data, child, inside, within)
            continue
        beside[child.name] = child.value
        if not isinstance(child.value, bytes) or node.format is None or _is_cut(child):
            continue
        start, stop = child.offset, child.offset + child.size
        rule = rule_for(node.format, child.name, inside)
        chosen = (rule and rule.choose(data, start, stop, beside)) or within.get(child.name)
        if chosen is not None:
            found, end = walk(chosen, data, start, stop)
            _deepen(data, found, inside, within)
            child.children.append(found)
            if end < stop:
                child.children.append(Node("padding", bytes(data[end:stop]), end, stop - end))


def _is_cut(node: Node) -> bool:
    """Whether the bytes of a field of fixed size are not all there."""
    return node.field is not None and node.field.is_head and node.size < node.field.size


def rule_for(fmt: type[Format], name: str, inside: Mapping[tuple[type[Format], str], Inside]) -> Inside | None:
    """The rule for a field of a format or of one that it derives from."""
    for cls in fmt.__mro__:
        rule = inside.get((cls, name))
        if rule is not None:
            return rule
    return None
