"""Strict YAML: text becomes a tree of values that know where they were written.

Only YAML-1.2 core scalars have a meaning beyond text: null, true and false, decimal integers and floats. Tags,
anchors, duplicate keys, merge keys, several documents and deep nesting are errors, each with its place. PyYAML's
pure-Python parser delivers events; nothing is constructed from them but plain values, and nothing recurses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
        return tuple(v.data for v in self.value) if isinstance(self.value, tuple) else self.value

    @property
    def entries(self) -> dict[str, Node]:
        """The entries of a mapping; of anything else none."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> tuple[Node, ...]:
        """The items of a list; of anything else none."""
        return self.value if isinstance(self.value, tuple) else ()

    def child(self, key: str | int) -> Node | None:
        """The entry of that key or index, if there is one."""
        if isinstance(key, str):
            return self.entries.get(key)
        return self.items[key] if 0 <= key < len(self.items) else None

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

    def with_child(self, key: Any, child: Node | None) -> Node:
        """The same with another value under that key or index; of a list, None takes the entry out."""
        if isinstance(self.value, tuple):
            return self.with_value((*self.value[:key], *(() if child is None else (child,)), *self.value[key + 1 :]))
        return self.with_value({**self.value, key: child})

    def moved(self, mark: Mark) -> Node:
        """The same values, all in one place."""
        value = self.value
        if isinstance(value, dict):
            value = {k: v.moved(mark) for k, v in value.items()}
        elif isinstance(value, tuple):
            value = tuple(v.moved(mark) for v in value)
        return Node(value, mark, self.key and mark)


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
    mark = Mark(Source(name), 0, 0)
    try:
        return parse(text, name).moved(mark)
    except ConfigError as error:
        raise ConfigError(replace(p, mark=mark) for p in error.problems) from None


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
            problems.append((len(text[: error.start].decode("utf-8")), "this is not UTF-8 text; save the file as UTF-8"))
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


class _Builder:
    """Builds the tree from events; collects problems and goes on where it can."""

    def __init__(self, text: str, source: Source) -> None:
        self.source = source
        self.events = _Events(text)
        self.problems: list[Problem] = []
        self.values = 0
        self.path: Path_ = ()  # of the value that is being read
        self.depth = 0  # of collections around it, counted on their own: a collection that is a key has no path

    def tree(self) -> Node:
        """The finished tree, or a ConfigError."""
        root = None
        try:
            root = self._document()
        except yaml.MarkedYAMLError as error:
            text = ", ".join(part for part in (error.context, error.problem) if part)
            self._complain(error.problem_mark or error.context_mark, f"not YAML: {text}")
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # e.g. an escape beyond Unicode
            self._complain(self.events.get_mark(), f"not YAML: {error}")
        if self.problems:
            raise ConfigError(self.problems)
        return root or Node(None, Mark(self.source, 0, 0))

    def _document(self) -> Node | None:
        root = None
        while (event := self.events.get_event()) is not None:
            if isinstance(event, yaml.DocumentStartEvent):
                if event.version or event.tags:
                    self._complain(event.start_mark, "YAML directives (%YAML, %TAG) are not used here; remove them")
                if root is not None:
                    raise self._end(event, "a second document starts here; use one file for each")
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event)
        return root

    def _node(self, event: Any, key: Mark | None = None) -> Node:
        """The value that begins with `event`."""
        mark = self._mark(event.start_mark)
        self._check(event)
        if not isinstance(event, yaml.CollectionStartEvent):
            return Node(self._scalar(event), mark, key)
        self.depth += 1
        value = self._entries() if isinstance(event, yaml.MappingStartEvent) else self._items()
        self.depth -= 1
        return Node(value, mark, key)

    def _check(self, event: Any) -> None:
        """What YAML has and hardware files have not."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise self._end(event, f"more than {MAX_VALUES:,} keys and values; write a smaller file")
        if isinstance(event, yaml.CollectionStartEvent) and self.depth >= MAX_DEPTH:
            raise self._end(event, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"aliases (*{event.anchor})", "write the value out, or use 'like:'")
        elif event.anchor is not None:
            self._refuse(event, f"anchors (&{event.anchor})", "remove it, or use 'like:'")
        if getattr(event, "tag", None) is not None:
            self._refuse(event, f"tags ({event.tag})", "write the plain value")

    def _scalar(self, event: Any) -> Any:
        """What a word means; an alias means nothing."""
        text = getattr(event, "value", "")
        if bad := _FORBIDDEN.search(text):
            self._complain(event.start_mark, f"character U+{ord(bad[0]):04X} is not allowed, not even escaped")
        return plain_scalar(text) if getattr(event, "style", None) is None else text

    def _items(self) -> tuple[Node, ...]:
        items: list[Node] = []
        here = self.path
        while not isinstance(event := self.events.get_event(), yaml.SequenceEndEvent):
            self.path = (*here, len(items))
            items.append(self._node(event))
        self.path = here
        return tuple(items)

    def _entries(self) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        here = self.path
        while not isinstance(event := self.events.get_event(), yaml.MappingEndEvent):
            key = self._key(event, entries)
            self.path = (*here, key)
            entries.setdefault(key, self._node(self.events.get_event(), self._mark(event.start_mark)))
            self.path = here
        return entries

    def _key(self, event: Any, entries: dict[str, Node]) -> str:
        value = self._node(event).value
        text = getattr(event, "value", "?")
        if isinstance(event, yaml.CollectionStartEvent):
            self._complain(event.start_mark, "a key must be text, not a list or mapping")
        elif not isinstance(value, str):
            self._complain(event.start_mark, f'a key must be text; write "{text}" in quotes if you mean it')
        elif text == "<<" and event.style is None:
            self._refuse(event, "merge keys (<<)", "use 'like:'")
        elif text in entries:
            first = (entries[text].key or entries[text].mark).line + 1
            self._complain(event.start_mark, f"key {text!r} appears twice (first on line {first}); keep one", text)
        return text

    def _mark(self, mark: Any) -> Mark:
        return Mark(self.source, mark.line, mark.column) if mark is not None else Mark(self.source, 0, 0)

    def _complain(self, mark: Any, message: str, *step: str) -> None:
        self.problems.append(Problem(self._mark(mark), dotted((*self.path, *step)), message))

    def _refuse(self, event: Any, what: str, instead: str) -> None:
        self._complain(event.start_mark, f"{what} are not used here; {instead}")

    def _end(self, event: Any, message: str) -> ConfigError:
        """All problems, this one the last: reading on makes no sense."""
        self.path = ()
        self._complain(event.start_mark, message)
        return ConfigError(self.problems)


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
