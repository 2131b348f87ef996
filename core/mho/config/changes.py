"""`--set PATH=VALUE`: changes from the command line, made on the tree of a hardware file."""

import re
from dataclasses import dataclass

from mho.config.inherit import as_kinded, as_mapping, by_present_names, place_of
from mho.config.schema import shown, suggest
from mho.config.slots import SLOTS
from mho.config.yamltext import Node, dotted, parse_value
from mho.ground import ConfigError, Mark, Problem, Source


def changed_by(tree: Node, change: str) -> Node:
    """The tree with one `PATH=VALUE` applied."""
    path, equals, text = change.partition("=")
    name = f"--set {change}"
    mark = Mark(Source(name), 0, 0)
    steps = _steps(path.strip())
    if not equals or not steps:
        raise ConfigError([Problem(mark, "", "expected PATH=VALUE, e.g. tiles.pcm.rows=256")])
    return _Change(mark, parse_value(text, name)).apply(tree, steps, ())


def _steps(path: str) -> list[str]:
    """tiles.pcm.nonidealities[pcm.drift].nu -> tiles, pcm, nonidealities, [pcm.drift], nu; [] if it is not a path."""
    if not re.fullmatch(r"[^.\[\]]+(\.[^.\[\]]+|\[[^\[\]]+\])*", path):
        return []
    return re.findall(r"\[[^\[\]]+\]|[^.\[\]]+", path)


@dataclass(frozen=True)
class _Change:
    """One value that is put into a tree; new parts on the way are made."""

    mark: Mark
    new: Node

    def apply(self, node: Node, steps: list[str], done: tuple[str | int, ...]) -> Node:
        """`node` with the value at `steps`; `done` is the path of `node`."""
        if not steps:
            return Node(self.new.value, self.new.mark, self.mark)
        if isinstance(node.value, tuple):
            return self._in_list(node, steps, done)
        if isinstance(node.value, dict):
            return self._in_mapping(node, steps, done)
        raise self._no_path(f"{dotted(done)} is {shown(node.data)}, which has no parts")

    def _in_mapping(self, node: Node, steps: list[str], done: tuple[str | int, ...]) -> Node:
        if "kind" in node.value:
            kind = node.value["kind"].value
            node = by_present_names(node, kind)
            steps = [*by_present_names(Node({steps[0]: self.new}, self.mark), kind).value, *steps[1:]]
        key, rest = self._key(node, steps)
        if key.startswith("["):
            raise self._no_path(f"{dotted(done)} is not a list; write .name instead of {key}")
        child = node.value.get(key)
        if child is None and done == ("tiles",):
            raise self._no_path(f"no tile {key!r}; {suggest(key, node.value, 'tiles')}")
        if key == "kind" and not rest and child is not None and child.value != self.new.value:
            return node.with_value({"kind": self.apply(child, rest, (*done, key))})  # the old kind's fields go
        if rest:
            child = self._opened(key, child, done)
        return node.with_child(key, self.apply(child or Node(None, self.mark), rest, (*done, key)))

    def _key(self, node: Node, steps: list[str]) -> tuple[str, list[str]]:
        """The longest existing key that the steps start with (names may contain dots), else the first step."""
        for n in range(len(steps), 0, -1):
            if ".".join(steps[:n]) in node.value:
                return ".".join(steps[:n]), steps[n:]
        return steps[0], steps[1:]

    def _opened(self, key: str, child: Node | None, done: tuple[str | int, ...]) -> Node:
        """A value as something that has parts, where the schema allows it."""
        if child is None or child.value in (None, "none"):
            child = Node({}, self.mark, self.mark)
        if len(done) == 2 and done[0] == "tiles" and key in SLOTS:
            return as_kinded(child, SLOTS[key].kind)
        return as_mapping(child, "mode") if (*done, key) == ("training", "backward") else child

    def _in_list(self, node: Node, steps: list[str], done: tuple[str | int, ...]) -> Node:
        at = self._index(node, steps[0], done)
        if len(steps) == 1 and self.new.value in (None, "none"):
            return node.with_child(at, None)
        item = node.value[at]
        if done[-1] in ("nonidealities", "methods") and len(steps) > 1:
            item = as_kinded(item)
        return node.with_child(at, self.apply(item, steps[1:], (*done, at)))

    def _index(self, node: Node, step: str, done: tuple[str | int, ...]) -> int:
        if not step.startswith("["):
            raise self._no_path(f"{dotted(done)} is a list; write [0] or [kind] instead of .{step}")
        inner = step[1:-1].strip()
        if not re.fullmatch(r"[0-9]{1,6}", inner):
            return place_of(node, inner, self._no_path)
        if int(inner) >= len(node.value):
            raise self._no_path(f"{dotted(done)} has {len(node.value)} entries, counted from 0")
        return int(inner)

    def _no_path(self, why: str) -> ConfigError:
        return ConfigError([Problem(self.mark, "", f"no such path: {why}")])
