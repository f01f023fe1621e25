"""One record in full: its decode tree, and its bytes with the selected field marked."""

from __future__ import annotations

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from dissectors.engine.decoded import Decoded
from vmbus.wire.tree import Node, show


class DecodeTree(Tree[Node]):
    """Every field of a record.  The fold state of layers is kept from record to record, by name."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__("nothing selected", id=id)
        self.show_root = False
        self.guide_depth = 2
        self._folded: set[str] = set()

    def show_record(self, item: Decoded | None) -> None:
        self.clear()
        if item is None:
            return
        for note in item.notes:
            self.root.add_leaf(f"[b red]! {_plain(note)}[/]")
        for child in item.tree.children:
            self._add(self.root, child, depth=0)
        self.root.expand()

    def _add(self, parent: TreeNode[Node], node: Node, depth: int) -> None:
        value = show(node.value, node.field)
        label = f"[b]{_plain(node.name)}[/]" if node.children and depth == 0 else _plain(node.name)
        if value:
            label += f": [cyan]{_plain(value)}[/]"
        if node.problem:
            label += f"  [b red]! {_plain(node.problem)}[/]"
        if not node.children:
            parent.add_leaf(label, data=node)
            return
        expand = node.name not in self._folded and depth < 2 and not node.name.startswith("record")
        branch = parent.add(label, data=node, expand=expand)
        for child in node.children:
            self._add(branch, child, depth + 1)

    def on_tree_node_collapsed(self, event: Tree.NodeCollapsed[Node]) -> None:
        if event.node.data is not None:
            self._folded.add(event.node.data.name)

    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Node]) -> None:
        if event.node.data is not None:
            self._folded.discard(event.node.data.name)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


class HexView(ScrollView, can_focus=True):
    """Offset, sixteen bytes, text; the bytes of the selected field stand out."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._data = b""
        self._marked = (0, 0)

    def show_record(self, item: Decoded | None) -> None:
        self._data = bytes(item.data) if item is not None else b""
        self._marked = (0, 0)
        self.virtual_size = Size(78, (len(self._data) + 15) // 16)
        self.scroll_to(y=0, animate=False)
        self.refresh()

    def mark(self, offset: int, size: int) -> None:
        """Mark bytes, and bring them into view."""
        self._marked = (offset, offset + size)
        row = offset // 16
        if size and not self.scroll_offset.y <= row < self.scroll_offset.y + max(self.size.height, 1):
            self.scroll_to(y=max(row - 1, 0), animate=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        at = (self.scroll_offset.y + y) * 16
        piece = self._data[at : at + 16]
        if not piece:
            return Strip.blank(self.size.width, base)
        dim, mark = base + Style(dim=True), base + Style(bgcolor="#355a78", bold=True)
        start, stop = self._marked
        hexes: list[Segment] = []
        texts: list[Segment] = []
        for index in range(16):
            inside = start <= at + index < stop
            if index < len(piece):
                byte = piece[index]
                style = mark if inside else base if byte else dim
                gap = " " if index != 7 else "  "
                joined = inside and at + index + 1 < stop
                hexes += [Segment(f"{byte:02x}", style), Segment(gap, mark if joined else base)]
                texts.append(Segment(chr(byte) if 0x20 <= byte < 0x7F else "·", style))
            else:
                hexes.append(Segment("   " if index != 7 else "    ", base))
        segments = [Segment(f"{at:04x}  ", dim), *hexes, Segment(" ", base), *texts]
        return Strip(segments).adjust_cell_length(self.size.width, base)
