"""The runtime codec: for each format, straight-line Python around ``struct``, generated once when the class is made.

Parsing 24 bytes into a slotted object this way costs a fraction of a microsecond; interpreting the same
declaration costs tens (docs/decisions.md has the figures).  The generated source is kept in ``CODEC_SOURCE``.
``tail`` reads and writes what comes after the fixed-size head.
"""

from __future__ import annotations

import struct
from functools import cache
from itertools import count
from typing import Any
from uuid import UUID

from vmbus.wire.elements import UNSIGNED, byte_order, fitted, has_code, integer_code, list_codec
from vmbus.wire.enums import OpenFlags
from vmbus.wire.schema import Field, Format, FormatMeta, Kind, Truncated, Values, WireError
from vmbus.wire.tail import tail_codec


class _Group:
    """Consecutive head fields that one ``struct.Struct`` covers: one byte order, no gaps."""

    def __init__(self) -> None:
        self.order = ""
        self.codes: list[str] = []
        self.size = 0

    def accepts(self, order: str) -> bool:
        return not order or not self.order or order == self.order

    def add(self, code: str, size: int, order: str) -> None:
        self.codes.append(code)
        self.size += size
        self.order = self.order or order

    @property
    def format(self) -> str:
        return (self.order or "<") + "".join(self.codes)


class _Source:
    """Collects the generated lines of one format's codec and the objects they refer to."""

    def __init__(self, cls: type[Format]) -> None:
        self.cls = cls
        self.groups: list[_Group] = [_Group()]
        self.scope: dict[str, Any] = {"_cls": cls, "_new": object.__new__}
        self._names = count()
        self.unpacked: list[list[str]] = [[]]
        self.packed: list[list[str]] = [[]]
        self.assign: list[str] = []
        self.defaults: list[str] = []

    def refer(self, value: object) -> str:
        name = f"_r{next(self._names)}"
        self.scope[name] = value
        return name

    def lay(self, code: str, size: int, order: str, unpacked: list[str], packed: list[str]) -> None:
        if not self.groups[-1].accepts(order):
            self.groups.append(_Group())
            self.unpacked.append([])
            self.packed.append([])
        self.groups[-1].add(code, size, order)
        self.unpacked[-1] += unpacked
        self.packed[-1] += packed

    def set_field(self, field: Field, value: str) -> None:
        """``self.NAME = value``, through the enumeration if there is one."""
        if field.values is None:
            self.assign.append(f"self.{field.name} = {value}")
            return
        self.assign.append(f"self.{field.name} = {self.refer(_members(field.values))}[{value}]")


class _Members(dict[int, Any]):
    """The members of an enumeration by value; a value that it does not name is made on the spot and not kept."""

    def __init__(self, values: Values) -> None:
        super().__init__(values._value2member_map_)
        self._make = values._missing_

    def __missing__(self, value: int) -> Any:
        return self._make(value)


@cache
def _members(values: Values) -> _Members:
    """The values known beforehand: an enumeration's members; of flags also zero and, while few, all combinations."""
    known = _Members(values)
    if issubclass(values, OpenFlags):
        bits = [member.value for member in values]
        for mask in range(1 << len(bits) if len(bits) <= 6 else 1):
            combined = sum(bit for index, bit in enumerate(bits) if mask >> index & 1)
            known[combined] = values(combined)
    return known


def _lay_field(out: _Source, field: Field, group: list[Field]) -> None:
    """Add one head field (``group``: the bit fields that share its integer)."""
    raw_name = f"_{field.name}"
    match field.kind:
        case Kind.INT if field.size == 3:
            out.lay("3s", 3, "", [raw_name], [f"int(self.{field.name}).to_bytes(3, {byte_order(field)!r})"])
            out.set_field(field, f"int.from_bytes({raw_name}, {byte_order(field)!r})")
        case Kind.INT:
            code, order = integer_code(field)
            out.lay(code, field.size, order, [raw_name], [f"self.{field.name}"])
            out.set_field(field, raw_name)
        case Kind.BITS:
            order = "" if field.container == 1 else ">" if field.big else "<"
            parts = [f"_bits(self.{f.name}, {f.width}) << {f.shift}" for f in group]
            out.scope["_bits"] = _checked_bits
            out.lay(UNSIGNED[field.container], field.container, order, [raw_name], [" | ".join(parts)])
            for f in group:
                out.set_field(f, f"({raw_name} >> {f.shift}) & {(1 << f.width) - 1:#x}")
        case Kind.GUID:
            uuid = out.refer(UUID)
            out.lay("16s", 16, "", [raw_name], [f"self.{field.name}.bytes_le"])
            out.assign.append(f"self.{field.name} = {uuid}(bytes_le={raw_name})")
        case Kind.RAW | Kind.PAD:
            fit = out.refer(fitted)
            out.lay(f"{field.size}s", field.size, "", [raw_name], [f"{fit}(self.{field.name}, {field.size})"])
            out.assign.append(f"self.{field.name} = {raw_name}")
        case Kind.NESTED:
            nested = out.refer(field.element)
            out.lay(f"{field.size}s", field.size, "", [raw_name], [f"self.{field.name}.build()"])
            out.assign.append(f"self.{field.name} = {nested}.parse({raw_name})")
        case Kind.ARRAY if isinstance(field.element, Field) and has_code(field.element):
            code, order = integer_code(field.element)
            names = [f"{raw_name}_{i}" for i in range(field.number)]
            counted = out.refer(_counted)
            out.lay(
                f"{field.number}{code}",
                field.size,
                order,
                names,
                [f"*{counted}(self.{field.name}, {field.number}, {field.name!r})"],
            )
            values = field.element.values
            listed = ", ".join(f"{out.refer(values)}({n})" if values else n for n in names)
            out.assign.append(f"self.{field.name} = ({listed},)")
        case Kind.ARRAY:
            split, join = list_codec(field)
            joined = f"{out.refer(join)}({out.refer(_counted)}(self.{field.name}, {field.number}, {field.name!r}))"
            out.lay(f"{field.size}s", field.size, "", [raw_name], [joined])
            out.assign.append(f"self.{field.name} = {out.refer(split)}({raw_name}, 0, {field.size}, {field.number})[0]")
        case _:  # pragma: no cover - the metaclass lets no other kind into a head
            raise TypeError(field.kind)


def _checked_bits(value: int, width: int) -> int:
    if value >> width:
        raise WireError(f"{value:#x} does not fit {width} bits")
    return value


def _counted(values: tuple[Any, ...], number: int, name: str) -> tuple[Any, ...]:
    if len(values) != number:
        raise WireError(f"{name} has {len(values)} elements, not {number}")
    return values


def _default(field: Field) -> Any:
    """The constructor's default: the declared one, as the field's own type; None marks a required field."""
    if field.default is None:
        return None
    if field.values is not None:
        return field.values(field.default)
    if field.kind is Kind.PAD and not field.default:
        return bytes(field.size)
    if field.kind is Kind.RAW:
        return bytes(field.default).ljust(field.size, b"\0")
    return field.default


def install_codec(cls: FormatMeta) -> None:
    """Give ``cls`` its constructor, ``parse_prefix``, ``parse`` and ``build``."""
    fmt: type[Format] = cls  # type: ignore[assignment]
    out = _Source(fmt)
    head = [field for field in cls.FIELDS if field.is_head]
    tail = [field for field in cls.FIELDS if not field.is_head and field.is_stored]
    index = 0
    while index < len(head):
        field = head[index]
        group = [field]
        if field.kind is Kind.BITS:
            while index + 1 < len(head) and head[index + 1].kind is Kind.BITS and not head[index + 1].size:
                index += 1
                group.append(head[index])
        _lay_field(out, field, group)
        index += 1

    structs = [struct.Struct(packed.format) for packed in out.groups]
    out.scope |= {"_struct_error": struct.error, "_truncated": _truncated, "_unfit": _unfit}
    readers, writers = [], []
    for field in tail:
        read, write = tail_codec(fmt, field)
        readers.append(f" self.{field.name}, position = {out.refer(read)}(self, data, position, stop)")
        writers.append(f"{out.refer(write)}(self.{field.name})")
    lines = _constructor(out, cls.FIELDS)
    lines += _parser(out, structs, fmt.SIZE, readers)
    lines += _builder(out, structs, writers)
    source = "\n".join(lines)
    exec(compile(source, f"<codec of {cls.__name__}>", "exec"), out.scope)  # noqa: S102
    cls.CODEC_SOURCE = source  # type: ignore[attr-defined]
    cls.STRUCT = structs[0] if len(structs) == 1 else None  # type: ignore[attr-defined]
    cls.__init__ = out.scope["_init"]  # type: ignore[misc]
    cls.parse = staticmethod(out.scope["_parse"])  # type: ignore[attr-defined]
    cls.parse_prefix = staticmethod(out.scope["_parse_prefix"])  # type: ignore[attr-defined]
    cls.build = out.scope["_build"]  # type: ignore[attr-defined]


def _parser(out: _Source, structs: list[struct.Struct], size: int, readers: list[str]) -> list[str]:
    """The lines of ``_parse`` and ``_parse_prefix``; the one that is used most does the work."""
    unpack = []
    position = 0
    for packed, names in zip(structs, out.unpacked, strict=True):
        if names:
            at = f"offset + {position}" if position else "offset"
            unpack.append(f"  {', '.join(names)}, = {out.refer(packed.unpack_from)}(data, {at})")
        position += packed.size
    short = "raise _truncated(_cls, data, offset, end)"
    if unpack:
        unpack = [" try:", *unpack, " except _struct_error:", f"  {short} from None"]
    head = [*unpack, " self = _new(_cls)", *(f" {line}" for line in out.assign)]
    if not readers:
        return [
            "def _parse(data, offset=0, end=None):",
            *(f" {line}" for line in (f"if end is not None and end - offset < {size}:", f" {short}")),
            *head,
            " return self",
            "def _parse_prefix(data, offset=0, end=None):",
            f" return _parse(data, offset, end), offset + {size}",
        ]
    return [
        "def _parse_prefix(data, offset=0, end=None):",
        " stop = len(data)",
        " if end is not None and end < stop:",
        "  stop = end",
        f" position = offset + {size}",
        *(f" {line}" for line in ("if position > stop:", f" {short}")),
        *head,
        *readers,
        " return self, position",
        "def _parse(data, offset=0, end=None):",
        " return _parse_prefix(data, offset, end)[0]",
    ]


def _builder(out: _Source, structs: list[struct.Struct], writers: list[str]) -> list[str]:
    """The lines of ``_build``."""
    pieces = [
        f"{out.refer(packed.pack)}({', '.join(values)})"
        for packed, values in zip(structs, out.packed, strict=True)
        if values
    ]
    return [
        "def _build(self):",
        " try:",
        f"  return {' + '.join([*pieces, *writers]) or repr(b'')}",
        " except (_struct_error, OverflowError, AttributeError, TypeError) as error:",
        "  raise _unfit(self, error) from None",
    ]


def _constructor(out: _Source, fields: tuple[Field, ...]) -> list[str]:
    stored = [field for field in fields if field.is_stored]
    parameters = []
    for field in stored:
        default = _default(field)
        parameters.append(field.name if default is None else f"{field.name}={out.refer(default)}")
    star = "*, " if parameters else ""
    lines = [f"def _init(self, {star}{', '.join(parameters)}):"]
    for field in stored:
        value = field.name
        if field.values is not None:
            enum = out.refer(field.values)
            value = f"{field.name} if type({field.name}) is {enum} else {enum}({field.name})"
        lines.append(f" self.{field.name} = {value}")
    return [*lines, " return None"]


def _truncated(cls: type[Format], data: Any, offset: int, end: int | None) -> Truncated:
    left = max((len(data) if end is None else min(end, len(data))) - offset, 0)
    return Truncated(f"{cls.__name__} needs {cls.SIZE} bytes and {left} are left")


def _unfit(value: Format, error: Exception) -> WireError:
    return WireError(f"{type(value).__name__} cannot be built: {error}")
