"""The decode tree: every field of one record, layer by layer, with what is wrong where it is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap
from typing import ClassVar
from uuid import UUID

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from dissectors.engine.decoded import Decoded
from dissectors.engine.names import field_name, module_name, snake
from dissectors.rules.checker import Finding
from tui.theme import DARK, LIGHT
from vmbus.wire.capture import RecordHeader
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.ring import PacketDescriptor
from vmbus.wire.schema import Format
from vmbus.wire.tree import Node, show

_MARGIN = 2
_LEAST_WIDTH = 20
_OPEN_DEPTH = 3
"""Layers, their fields and what is directly in those are open unless the user folded them, or there are many."""


class DecodeTree(Tree[Node]):
    """Shows a record.  What the user folds or opens stays so from record to record, by name."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "copy_field", "Copy field", show=False),
        Binding("equals_sign", "filter_field", "Filter on field", show=False),
    ]

    class FilterWanted(Message):
        """The user wants to see the records that have this field's value."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("nothing selected", id=id)
        self.show_root = False
        self.guide_depth = 2
        self._folds: dict[str, bool] = {}
        """Names and whether they are open, where the user said so."""
        self._formats: dict[int, type[Format]] = {}
        """Of a node's field, by the node's identity: the format that declares it."""
        self.record: Node | None = None
        """The root of the tree that is shown."""

    def show_record(self, item: Decoded | None, findings: Iterable[Finding] = ()) -> None:
        """Show another record and what the rules found at it; the cursor stays in its line."""
        at = self.cursor_line
        self.clear()
        self._formats.clear()
        self.record = None
        if item is None:
            return
        for finding in findings:
            self._add_lines(f"! {finding}", f"bold {self._wrong}")
            self._add_lines(f"  {finding.look_at}", self._wrong)
        for note in item.notes:
            self._add_lines(f"! {note}", f"bold {self._wrong}")
        self.record = item.tree
        has_more = any(not _is_head(child) for child in self.record.children)
        for child in self.record.children:
            self._add(self.root, child, 0, heads_are_open=not has_more)
        self.root.expand()
        self.cursor_line = min(at, self.last_line)

    @property
    def _wrong(self) -> str:
        """The colour of what is wrong, on this ground."""
        return (DARK if self.app.current_theme.dark else LIGHT).problem

    def _add_lines(self, text: str, style: str) -> None:
        """A sentence in as many lines as it takes."""
        for line in wrap(text, max(self.size.width - _MARGIN, _LEAST_WIDTH), subsequent_indent="  "):
            self.root.add_leaf(Text(line, style))

    def _add(self, parent: TreeNode[Node], node: Node, depth: int, *, heads_are_open: bool = False) -> None:
        label = layer_label(node) if depth == 0 else field_label(node, self._wrong)
        if not node.children:
            parent.add_leaf(label, data=node)
            return
        is_open = heads_are_open if _is_head(node) else depth < _OPEN_DEPTH and len(node.children) <= 64
        branch = parent.add(label, data=node, expand=self._folds.get(_fold_key(node), is_open))
        for child in node.children:
            if node.format is not None:
                self._formats[id(child)] = node.format
            self._add(branch, child, depth + 1)

    def on_tree_node_collapsed(self, event: Tree.NodeCollapsed[Node]) -> None:
        self._remember(event.node.data, False)

    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Node]) -> None:
        self._remember(event.node.data, True)

    def _remember(self, node: Node | None, is_open: bool) -> None:
        if node is not None:
            self._folds[_fold_key(node)] = is_open

    # Bytes to fields

    def select_byte(self, offset: int) -> Node | None:
        """Put the cursor on the smallest field that holds a byte, opening what hides it; returns it."""
        found: TreeNode[Node] | None = None
        level = list(self.root.children)
        while level:
            inside = [node for node in level if node.data is not None and _holds(node.data, offset)]
            if not inside:
                break
            found = min(inside, key=lambda node: node.data.size if node.data else 0)
            level = list(found.children)
        if found is None:
            return None
        above = found.parent
        while above is not None and above is not self.root:
            above.expand()
            above = above.parent
        self.call_after_refresh(self.move_cursor, found)
        return found.data

    # What to do with a field

    def action_copy_field(self) -> None:
        """Copy the value under the cursor."""
        node = self.cursor_node.data if self.cursor_node else None
        if node is not None:
            self.app.copy_to_clipboard(plain_value(node) or node.name)
            self.notify(f"copied {node.name}", timeout=2)

    def action_filter_field(self) -> None:
        """Show only records with this value in this field."""
        node = self.cursor_node.data if self.cursor_node else None
        text = self.filter_on(node) if node is not None else None
        if text is None:
            self.notify("there is no filter for this: choose a field with a value", timeout=2)
        else:
            self.post_message(self.FilterWanted(text))

    def filter_on(self, node: Node) -> str | None:
        """The filter for records that have a field's value; None for what has none."""
        fmt = self._formats.get(id(node))
        if fmt is None or node.field is None:
            return None
        written = _literal(node)
        return None if written is None else f"{field_name(fmt, node.name).removeprefix('vmbus.')} == {written}"


def layer_label(node: Node) -> Text:
    """``ring: packet descriptor (16 bytes)``: the protocol of a layer, what it is called there, and its size."""
    size = f"  {node.size} bytes"
    if node.format is None:
        text = Text(node.name, "bold")
        value = plain_value(node) if node.name == "text" else show(node.value)
        return text.append(f": {value}" if node.name == "text" else f"  {value}", "not bold")
    protocol, name = module_name(node.format), snake(node.format.__name__)
    short = name.removeprefix(f"{protocol}_").replace("_", " ")
    return Text(protocol, "bold").append(f": {short}").append(size, "dim not bold")


def field_label(node: Node, wrong: str) -> Text:
    """``name: value``, and what is wrong with it in the colour ``wrong``."""
    text = Text(node.name)
    value = show(node.value, node.field)
    if value:
        text.append(": ", "dim").append(value, "bold" if isinstance(node.value, (OpenEnum, OpenFlags)) else "")
    if node.problem:
        text.append(f"  ! {node.problem}", f"bold {wrong}")
    return text


def plain_value(node: Node) -> str:
    """A field's value as text to paste: names of enumerations, hexadecimal bytes, text where there is text."""
    value = node.value
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        encoding = node.field.text if node.field is not None else None
        if encoding or node.name == "text":
            return raw.decode(encoding or "utf-8", "replace").split("\0")[0].rstrip()
        return raw.hex()
    return "" if value is None else str(value)


def _literal(node: Node) -> str | None:
    """A value as the filter language writes it."""
    match node.value:
        case OpenEnum() as value if value.is_known:
            return str(value)
        case int():
            return str(int(node.value))
        case UUID():
            return str(node.value)
        case bytes() if node.field is not None and node.field.text:
            return '"' + plain_value(node).replace('"', '\\"') + '"'
        case bytes() as raw if 2 <= len(raw) <= 64:
            return raw.hex(":")
    return None


def _holds(node: Node, offset: int) -> bool:
    return node.offset <= offset < node.offset + node.size


def _fold_key(node: Node) -> str:
    return node.format.__name__ if node.format is not None else node.name


def _is_head(node: Node) -> bool:
    """Whether this is a header that every record or packet has: folded, unless there is nothing else in the record."""
    return node.format is not None and issubclass(node.format, (RecordHeader, PacketDescriptor))
