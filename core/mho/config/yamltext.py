"""Strict YAML: text becomes a tree of values that know where they were written.

Only YAML-1.2 core scalars have a meaning beyond text: null, true and false, decimal integers and floats. Tags,
anchors, duplicate keys, merge keys, several documents and deep nesting are errors, each with its place. PyYAML's
pure-Python parser delivers events; nothing is constructed from them but plain values, and nothing recurses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from mho.ground import ConfigError, Mark, MhoError, Problem, Source

MAX_BYTES = 2**18
MAX_VALUES = 6_000  # keys, values and collections; a thousand layer rules are 5,000
MAX_DEPTH = 64

Path_ = tuple[str | int, ...]

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")  # 010 and 0o10 stay text: nobody agrees on what they mean
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
_TAB_INDENT = re.compile(r"^ *\t", re.MULTILINE)
_LINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Node:
    """A value with its place: a scalar, a dict of nodes, or a tuple of nodes."""

    value: Any
    mark: Mark
    key: Mark | None = None  # where the key is written, for an entry of a mapping

    @property
    def data(self) -> Any:
        """The plain value, without places: dicts, tuples and scalars."""
        if isinstance(self.value, dict):
            return {k: v.data for k, v in self.value.items()}
        if isinstance(self.value, tuple):
            return tuple(v.data for v in self.value)
        return self.value

    def child(self, key: str | int) -> Node | None:
        """The entry of that key or index, if there is one."""
        if isinstance(self.value, dict) and isinstance(key, str):
            return self.value.get(key)
        if isinstance(self.value, tuple) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    def mark_of(self, path: Path_, *, of_key: bool = False) -> Mark:
        """Where to point for `path`: at a scalar's value, at a collection's key, or at the nearest parent there is."""
        node = self
        for step in path:
            found = node.child(step)
            if found is None:  # not written: point at the key of what it is missing in, or at a shorthand
                of_key = isinstance(node.value, (dict, tuple))
                break
            node = found
        return node.key if node.key is not None and (of_key or isinstance(node.value, (dict, tuple))) else node.mark

    def with_value(self, value: Any) -> Node:
        """The same place with another value."""
        return replace(self, value=value)


def dotted(path: Path_) -> str:
    """A path as users read it: tiles.pcm.nonidealities[1].nu."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read(path: Path | str) -> Node:
    """The tree of a file. Raises `MhoError` where it cannot be read, `ConfigError` for what is no YAML of this kind."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MhoError(f"cannot read {path}: {error.strerror}") from None
    return parse(raw, str(path))


def parse(text: str | bytes, name: str) -> Node:
    """The tree of a text; `name` is what errors call it. Raises ConfigError with every problem that it finds."""
    clean, source = _checked_text(text, name)
    return _Builder(clean, source).tree()


def parse_value(text: str, name: str) -> Node:
    """The tree of a value given outside a file, e.g. on the command line; errors show `name` and no line."""
    try:
        return _without_lines(parse(text, name), Source(name))
    except ConfigError as error:
        raise ConfigError([Problem(Mark(Source(name), 0, 0), p.path, p.message) for p in error.problems]) from None


def _without_lines(node: Node, source: Source) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {k: _without_lines(v, source) for k, v in value.items()}
    elif isinstance(value, tuple):
        value = tuple(_without_lines(v, source) for v in value)
    return Node(value, Mark(source, 0, 0), node.key and Mark(source, 0, 0))


def plain_scalar(text: str) -> Any:
    """What an unquoted word means: None, a bool, an int, a float, or the text itself."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text) and len(text) < 20:
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _checked_text(text: str | bytes, name: str) -> tuple[str, Source]:
    """Size, encoding and characters are fine, or a ConfigError that says where they are not."""
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise ConfigError([Problem(Mark(Source(name), 0, 0), "", f"the file is larger than {MAX_BYTES // 2**10} KiB")])
    problems: list[tuple[int, str]] = []
    decoded = text if isinstance(text, str) else text.decode("utf-8", "replace")
    if isinstance(text, bytes):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            readable = len(text[: error.start].decode("utf-8"))
            problems.append((readable, "this is not UTF-8 text; save the file as UTF-8"))
    decoded = decoded.removeprefix("\ufeff")
    source = Source(name, tuple(_LINE.split(_FORBIDDEN.sub("\ufffd", decoded))))
    for match in _FORBIDDEN.finditer(decoded):
        problems.append((match.start(), f"character U+{ord(match[0]):04X} is not allowed; remove it"))
    for match in _TAB_INDENT.finditer(decoded):
        problems.append((match.end() - 1, "a tab in the indentation; use spaces"))
    if problems:
        raise ConfigError(Problem(_mark_at(source, decoded, at), "", message) for at, message in problems[:20])
    return decoded, source


def _mark_at(source: Source, text: str, offset: int) -> Mark:
    before = _LINE.split(text[:offset])
    return Mark(source, len(before) - 1, len(before[-1]))


class _Events(Reader, Scanner, Parser):
    """PyYAML's event stream, without its composer and constructor."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


@dataclass
class _Open:
    """A collection that is being read; `pending` is the key whose value comes next."""

    mark: Mark
    value: dict[str, Node] | list[Node]
    path: Path_
    key: Mark | None  # of this collection in its parent
    pending: str | None = None
    pending_mark: Mark | None = None


class _Builder:
    """Builds the tree from events with a stack of its own; collects problems and goes on where it can."""

    def __init__(self, text: str, source: Source) -> None:
        self.source = source
        self.events = _Events(text)
        self.stack: list[_Open] = []
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self.values = 0

    def tree(self) -> Node:
        """The finished tree, or a ConfigError."""
        for event in self._stream():
            if not self._handle(event):
                break
        if self.problems:
            raise ConfigError(self.problems)
        return self.root or Node(None, Mark(self.source, 0, 0))

    def _stream(self) -> Iterator[yaml.Event]:
        try:
            while self.events.check_event():
                yield self.events.get_event()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            text = ", ".join(part for part in (error.context, error.problem) if part)
            self._complain(self._mark(mark), f"not YAML: {text}")
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # e.g. an escape beyond Unicode
            self._complain(self._mark(self.events.get_mark()), f"not YAML: {error}")

    def _handle(self, event: yaml.Event) -> bool:
        """Take in one event; False to stop reading."""
        mark = self._mark(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            return self._start_document(event, mark)
        if isinstance(event, yaml.NodeEvent):
            return self._start_node(event, mark)
        if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            done = self.stack.pop()
            value = tuple(done.value) if isinstance(done.value, list) else done.value
            self._add(Node(value, done.mark, done.key))
        return True

    def _start_document(self, event: yaml.DocumentStartEvent, mark: Mark) -> bool:
        if event.version or event.tags:
            self._complain(mark, "YAML directives (%YAML, %TAG) are not used here; remove them")
        if self.root is None:
            return True
        self._complain(mark, "a second document starts here; use one file for each")
        return False

    def _start_node(self, event: yaml.NodeEvent, mark: Mark) -> bool:
        self.values += 1
        if self.values > MAX_VALUES:
            self._complain(mark, f"more than {MAX_VALUES:,} keys and values; write a smaller file")
            return False
        if isinstance(event, yaml.AliasEvent):
            self._complain(mark, f"aliases (*{event.anchor}) are not used here; write the value out, or use 'like:'")
        elif event.anchor is not None:
            self._complain(mark, f"anchors (&{event.anchor}) are not used here; remove it, or use 'like:'")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._complain(mark, f"tags ({tag}) are not used here; write the plain value")
        if isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            self._scalar(event, mark)
            return True
        if len(self.stack) >= MAX_DEPTH:
            self.problems.append(Problem(mark, "", f"nested more than {MAX_DEPTH} levels deep"))
            return False
        self._open(event, mark)
        return True

    def _scalar(self, event: yaml.ScalarEvent | yaml.AliasEvent, mark: Mark) -> None:
        text = getattr(event, "value", "")
        if bad := _FORBIDDEN.search(text):
            self._complain(mark, f"character U+{ord(bad[0]):04X} is not allowed, not even escaped")
        quoted = getattr(event, "style", None) is not None
        value = text if quoted else plain_scalar(text)
        if self._wants_key():
            self._take_key(value, text, mark, quoted)
        else:
            self._add(Node(value, mark, self._pending_mark()))

    def _open(self, event: yaml.NodeEvent, mark: Mark) -> None:
        empty: dict[str, Node] | list[Node] = {} if isinstance(event, yaml.MappingStartEvent) else []
        if self._wants_key():
            self._complain(mark, "a key must be text, not a list or mapping")
            self.stack.append(_Open(mark, empty, (*self._path(), "?"), None))
        else:
            self.stack.append(_Open(mark, empty, self._here(), self._pending_mark()))

    def _wants_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].value, dict) and self.stack[-1].pending is None

    def _take_key(self, value: Any, text: str, mark: Mark, quoted: bool) -> None:
        top = self.stack[-1]
        if not isinstance(value, str):
            self._complain(mark, f'a key must be text; write "{text}" in quotes if you mean it')
        elif text == "<<" and not quoted:
            self._complain(mark, "merge keys (<<) are not used here; use 'like:'")
        elif isinstance(top.value, dict) and text in top.value:
            first = top.value[text].key or top.mark
            self._complain(mark, f"key {text!r} appears twice (first on line {first.line + 1}); keep one", text)
        top.pending, top.pending_mark = text, mark

    def _add(self, node: Node) -> None:
        """Put a finished value where it belongs."""
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if isinstance(top.value, list):
            top.value.append(node)
        elif top.pending is None:  # a collection that stands where a key should; already complained about
            top.pending, top.pending_mark = "?", node.mark
        else:
            top.value.setdefault(top.pending, node)
            top.pending = top.pending_mark = None

    def _pending_mark(self) -> Mark | None:
        return self.stack[-1].pending_mark if self.stack else None

    def _path(self) -> Path_:
        return self.stack[-1].path if self.stack else ()

    def _here(self) -> Path_:
        """The path of the value that comes next."""
        if not self.stack:
            return ()
        top = self.stack[-1]
        if isinstance(top.value, list):
            return (*top.path, len(top.value))
        return (*top.path, top.pending) if top.pending is not None else top.path

    def _mark(self, mark: Any) -> Mark:
        if mark is None:
            return Mark(self.source, 0, 0)
        return Mark(self.source, mark.line, mark.column)

    def _complain(self, mark: Mark, message: str, *step: str) -> None:
        self.problems.append(Problem(mark, dotted((*self._here(), *step)), message))


# --- writing ---

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*|[0-9][0-9.e+-]* [A-Za-z]+")
_WIDTH = 110


def write(data: Any, indent: int = 0) -> str:
    """Plain data as YAML that `parse` reads back equal: blocks, with short leaves on one line."""
    pad = " " * indent
    if isinstance(data, Mapping) and data:
        return "".join(_entry(f"{pad}{_text(str(k))}:", v, indent) for k, v in data.items())
    if isinstance(data, (tuple, list)) and data:
        return "".join(_entry(f"{pad}-", v, indent) for v in data)
    return f"{pad}{flow(data)}\n"


def _entry(head: str, value: Any, indent: int) -> str:
    line = f"{head} {flow(value)}\n"
    if not isinstance(value, (Mapping, tuple, list)) or not value or (len(line) < _WIDTH and _shallow(value)):
        return line
    if head.endswith("-"):  # the first key stands behind the dash
        return head + " " + write(value, indent + 2).lstrip(" ")
    return f"{head}\n{write(value, indent + 2)}"


def _shallow(value: Any) -> bool:
    """No collections inside: short enough to read on one line."""
    inner = value.values() if isinstance(value, Mapping) else value
    return not any(isinstance(v, (Mapping, tuple, list)) and v for v in inner)


def flow(value: Any) -> str:
    """Plain data on one line, as YAML that `parse_value` reads back equal."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(k))}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, (int, float)) else _text(str(value))


def _text(text: str) -> str:
    """Unquoted where that is read back as the same text."""
    if _PLAIN.fullmatch(text) and isinstance(plain_scalar(text), str):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
