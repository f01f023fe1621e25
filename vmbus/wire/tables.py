"""Tables of the formats for docs/formats/, in Markdown, from the same declarations that parse and build them.

``python -m vmbus.wire.tables DIRECTORY`` writes one page for each module that declares formats or enumerations, and an
index.  A test holds the committed pages against the declarations.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from functools import cache
from pathlib import Path
from types import ModuleType

import vmbus.wire
from vmbus.wire.enums import OpenEnum, OpenFlags
from vmbus.wire.schema import Field, Format, Kind

NOTICE = "<!-- Made by `python -m vmbus.wire.tables docs/formats`; change the declarations, not this file. -->"


def modules() -> Iterator[ModuleType]:
    """The modules under ``vmbus.wire`` that declare formats or enumerations, by name."""
    for found in sorted(pkgutil.walk_packages(vmbus.wire.__path__, "vmbus.wire."), key=lambda module: module.name):
        module = importlib.import_module(found.name)
        if formats_of(module) or values_of(module):
            yield module


def formats_of(module: ModuleType) -> list[type[Format]]:
    """The formats that a module declares itself, in the order of declaration; those with a leading ``_`` are parts."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Format) and value is not Format
        if value.__module__ == module.__name__ and not name.startswith("_")
    ]


def values_of(module: ModuleType) -> list[type[OpenEnum] | type[OpenFlags]]:
    """The enumerations and flags that a module declares itself."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, (OpenEnum, OpenFlags))
        if value.__module__ == module.__name__ and list(value)
    ]


def page(module: ModuleType) -> str:
    """The page of one module: what it is, its formats, its enumerations."""
    lines = [NOTICE, "", f"# `{module.__name__}`", "", inspect.getdoc(module) or "", ""]
    for fmt in formats_of(module):
        lines += [*table(fmt), ""]
    for values in values_of(module):
        lines += [*values_table(values), ""]
    return "\n".join(lines).rstrip() + "\n"


def table(fmt: type[Format]) -> list[str]:
    """The table of one format: where each field lies, how large it is, what it is."""
    size = f"{fmt.SIZE} byte{'s' * (fmt.SIZE != 1)}" + ("" if fmt.IS_FIXED else " and a tail")
    lines = [f"## {fmt.__name__}", "", f"{inspect.getdoc(fmt) or ''} ({size})", ""]
    if not fmt.FIELDS:
        return lines[:-1]
    lines += ["| offset | size | name | type | unit | meaning |", "|---|---|---|---|---|---|"]
    lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows(fmt)]
    for field in fmt.FIELDS:
        if field.cases is not None:
            lines += ["", f"| {field.on} | {field.name} |", "|---|---|"]
            lines += [f"| {_tag(tag)} | {_names(found)} |" for tag, found in sorted(field.cases.items())]
    return lines


def _tag(tag: int) -> str:
    return f"{tag} ({int(tag):#x})" if isinstance(tag, OpenEnum) else f"{tag:#x}"


def _names(formats: type[Format] | tuple[type[Format], ...]) -> str:
    found = formats if isinstance(formats, tuple) else (formats,)
    return " or ".join(fmt.__name__ for fmt in found)


def rows(fmt: type[Format]) -> Iterator[tuple[str, str, str, str, str, str]]:
    """Offset, size, name, type, unit and meaning of each field; bit fields as ``byte.bit`` and a number of bits."""
    position = container_at = 0
    after_tail = ""
    for field in fmt.FIELDS:
        if field.kind is Kind.LOCATED:
            yield field.offset or "", field.length or "", field.name, _type(field), field.unit, field.doc
            continue
        if field.kind is Kind.BITS:
            if field.size:
                container_at, position = position, position + field.size
            bits = f"{field.width} bit{'s' * (field.width > 1)}"
            yield f"{container_at}, bit {field.shift}", bits, field.name, _type(field), field.unit, field.doc
            continue
        offset = str(position) if field.is_head else after_tail or str(position)
        yield offset, _size(field), field.name, _type(field), field.unit, field.doc
        position += field.size
        if not field.is_head:
            after_tail = f"after {field.name}"


def _size(field: Field) -> str:
    if field.is_head:
        return str(field.size)
    if field.count is not None:
        return f"{field.count} elements"
    return field.length or "what is left"


def _type(field: Field) -> str:
    match field.kind:
        case Kind.INT | Kind.BITS:
            order = "be" if field.big and field.kind is Kind.INT and field.size > 1 else ""
            width = field.width or field.size * 8
            name = f"{'i' if field.signed else 'u'}{width}{order}"
            return f"{name}, {field.values.__name__}" if field.values else name
        case Kind.GUID:
            return "GUID"
        case Kind.PAD:
            return "padding"
        case Kind.NESTED:
            return _element(field)
        case Kind.ARRAY:
            return f"{field.number} of {_element(field)}"
        case Kind.ITEMS:
            return f"list of {_element(field)}"
        case Kind.LOCATED if field.element is not None:
            return f"list of {_element(field)}, found by offset"
        case Kind.VARIANT:
            return f"by {field.on}"
    kind = f"text, {field.text}" if field.text else "payload" if field.payload else "bytes"
    return f"{kind}, found by offset" if field.kind is Kind.LOCATED else kind


def _element(field: Field) -> str:
    element = field.element
    return _type(element) if isinstance(element, Field) else element.__name__ if element else ""


def values_table(values: type[OpenEnum] | type[OpenFlags]) -> list[str]:
    """The table of one enumeration or set of flags."""
    members: list[IntEnum | IntFlag] = list(values)
    width = max((len(f"{int(member):x}") for member in members), default=1)
    lines = [f"## {values.__name__}", "", inspect.getdoc(values) or "", "", "| value | name |", "|---|---|"]
    return lines + [f"| {int(member):#0{width + 2}x} | {member.name} |" for member in members]


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


@cache
def pages() -> dict[str, str]:
    """All pages by file name, the index among them."""
    found = {f"{module.__name__.removeprefix('vmbus.wire.')}.md": page(module) for module in modules()}
    lines = [NOTICE, "", "# Formats", "", "Every format on the wire, from its one declaration in `vmbus/wire`.", ""]
    for module in modules():
        name = module.__name__.removeprefix("vmbus.wire.")
        lines.append(f"- [{name}]({name}.md): {(inspect.getdoc(module) or '').splitlines()[0].rstrip('.')}")
    return {"README.md": "\n".join(lines) + "\n", **found}


def write(directory: Path) -> None:
    """Write all pages, and remove pages of modules that are gone."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for stale in directory.glob("*.md"):
        if stale.name not in wanted:
            stale.unlink()
    for name, text in wanted.items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
