"""`like`, `override` and `append`: hardware files that build on others, as trees in which every value keeps its place."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mho.config import registry
from mho.config.schema import kind_form, shown, suggest
from mho.config.slots import SLOTS
from mho.config.yamltext import Node, dotted, read
from mho.ground import ConfigError, Mark, MhoError, PluginError, Problem

INHERITING = ("like", "override", "append")  # the keys of a tile that are about another one
MAX_LIKE = 50  # tiles that a tile is like, one after the other


class Files:
    """Resolves what files inherit from presets and tiles from each other; collects the problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._presets: dict[str, Node] = {}

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Take down what is wrong inside, and go on behind it."""
        try:
            yield
        except ConfigError as error:
            self.problems += error.problems

    def resolved(self, tree: Node, chain: tuple[str, ...]) -> tuple[Node, Files]:
        """The tree of a file with everything inherited filled in; `chain` are the presets being read."""
        if not isinstance(tree.value, dict):
            message = f"expected a hardware file that begins with 'mho: 1', got {shown(tree.data)}"
            raise ConfigError([Problem(tree.mark, "", message)])
        base = None
        if "like" in tree.value:
            with self.collecting():
                base = self._preset(tree.value["like"], "like", chain)
                base = base.with_value({k: v for k, v in base.value.items() if k != "description"})  # it was the other's
        result = merged(spelled_out(base), tree.with_value({k: v for k, v in tree.value.items() if k not in ("like", "tiles")}))
        tiles = tree.child("tiles")
        inherited = base.child("tiles") if base is not None else None
        if tiles is None:
            return (result.with_child("tiles", inherited) if inherited is not None else result), self
        if isinstance(tiles.value, dict):
            everything = _Tiles(self, tiles.value, inherited.entries if inherited is not None else {}, chain)
            tiles = tiles.with_value(everything.resolved())
        return result.with_child("tiles", tiles), self

    def with_presets(self, tree: Node) -> Node:
        """Add the default tiles of presets that `default` or a rule names, so that the hardware is complete."""
        tiles, rules = tree.child("tiles") or Node({}, tree.mark), tree.child("layers")
        if not isinstance(tiles.value, dict):
            return tree
        found = dict(tiles.value)
        named = {"default": tree.child("default")}
        for i, rule in enumerate(rules.items if rules is not None else ()):
            named[f"layers[{i}].tile"] = rule.child("tile")
        for path, node in named.items():
            if node is not None and kind_form(node.value) and node.value not in found:
                with self.collecting():
                    found[node.value] = self.preset_tile(node, path, ())
        return tree.with_child("tiles", tiles.with_value(found)) if found else tree

    def preset_tile(self, name: Node, path: str, chain: tuple[str, ...]) -> Node:
        """The default tile of a preset."""
        tree = self.with_presets(self._preset(name, path, chain))
        default, tiles = tree.child("default"), tree.child("tiles")
        tile = tiles.child(default.value) if default is not None and tiles is not None else None
        if tile is None:
            raise wrong(name.mark, path, f"{name.value!r} has no default tile")
        return tile

    def _preset(self, name: Node, path: str, chain: tuple[str, ...]) -> Node:
        """The resolved tree of a preset, or of a file beside the one that names it."""
        preset = name.value
        if not isinstance(preset, str):
            raise wrong(name.mark, path, f"expected a preset such as 'pcm.standard', or a file, got {shown(name.data)}")
        try:
            if is_file(preset):
                file = _beside(name)
                preset = str(file.resolve())
            elif not kind_form(preset):
                raise PluginError(f"no preset {preset!r}; {suggest(preset, registry.presets(), 'presets')}")
            else:
                file = registry.preset_path(preset)
            if preset in chain:
                raise MhoError(f"presets inherit in a circle: {' -> '.join((*chain, preset))}")
            if len(chain) > MAX_LIKE:
                raise MhoError(f"files inherit from each other over more than {MAX_LIKE} steps")
            tree = self._presets.get(preset) or read(file)
        except ConfigError:
            raise
        except MhoError as error:
            raise wrong(name.mark, path, str(error)) from None
        if preset not in self._presets:
            self._presets[preset] = self.resolved(tree, (*chain, preset))[0]
        return self._presets[preset]


def is_file(name: object) -> bool:
    """Whether what a file inherits from is another file, and no preset."""
    return isinstance(name, str) and name.endswith((".yaml", ".yml"))


def _beside(name: Node) -> Path:
    """The file of that name, relative to the file that it is written in, and in the same folder or below."""
    folder = Path(name.mark.source.name).parent
    file = Path(os.path.normpath(folder / name.value))
    if not file.resolve().is_relative_to(folder.resolve()):
        raise MhoError(f"{name.value!r} leads out of {folder.resolve()}; expected a file there, or below it")
    if not os.path.isfile(file):
        there = (p.relative_to(folder).as_posix() for p in sorted(folder.glob("*.y*ml")))
        raise MhoError(f"no file {str(file)!r}; {suggest(name.value, there, 'files there')}")
    return file


def wrong(mark: Mark, path: str, message: str) -> ConfigError:
    """What to raise for one problem."""
    return ConfigError([Problem(mark, path, message, rule=True)])


@dataclass
class _Tiles:
    """Resolves the tiles of one file."""

    files: Files
    own: dict[str, Node]
    inherited: dict[str, Node]
    chain: tuple[str, ...]
    done: dict[str, Node] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def resolved(self) -> dict[str, Node]:
        """All tiles, those of the inherited file first."""
        return {**self.inherited, **{name: self._tile(name) for name in self.own}}

    def _tile(self, name: str) -> Node:
        if name not in self.done:
            self.open.append(name)
            self.done[name] = self._resolve(name, self.own[name])
            self.open.pop()
        return self.done[name]

    def _resolve(self, name: str, node: Node) -> Node:
        if not isinstance(node.value, dict):
            return node
        like, override, append = (node.child(key) for key in INHERITING)
        base = self.inherited.get(name)
        if like is not None:
            base = None
            with self.files.collecting():
                base = self._base(name, like)
        tile = merged(spelled_out(base), node.with_value({k: v for k, v in node.value.items() if k not in INHERITING}))
        if like is not None and base is None:  # whatever is to be overridden is not there
            return tile
        if override is not None:
            tile = self._overridden(tile, override, f"tiles.{name}.override")
        if append is not None:
            with self.files.collecting():
                tile = _appended(tile, append, f"tiles.{name}.append")
        return tile

    def _base(self, name: str, like: Node) -> Node:
        """The tile that `like` names: of this file, of the file it inherits, or a preset's."""
        path, wanted = f"tiles.{name}.like", like.value
        if not isinstance(wanted, str):
            raise wrong(like.mark, path, f"expected the name of a tile or a preset, got {shown(like.data)}")
        if len(self.open) > MAX_LIKE:
            raise wrong(like.mark, path, f"tiles are like each other over more than {MAX_LIKE} steps")
        if wanted in self.own and wanted not in self.open:
            return self._tile(wanted)
        if wanted in self.inherited:
            return self.inherited[wanted]
        if wanted in self.open:
            circle = " -> ".join((*self.open[self.open.index(wanted) :], wanted))
            raise wrong(like.mark, path, f"tiles are like each other in a circle: {circle}")
        if is_file(wanted) or kind_form(wanted):
            return self.files.preset_tile(like, path, self.chain)
        known = [n for n in (*self.own, *self.inherited, *registry.presets()) if n != name]
        raise wrong(like.mark, path, f"no tile {wanted!r}; {suggest(wanted, known, 'tiles and presets')}")

    def _overridden(self, tile: Node, override: Node, path: str) -> Node:
        """Change effects by kind."""
        with self.files.collecting():
            if not isinstance(override.value, dict):
                raise wrong(override.mark, path, "expected kinds with changes, e.g. {pcm.drift: none}")
        for kind, change in override.entries.items():
            with self.files.collecting():
                effects = tile.child("nonidealities") or Node((), override.mark, override.key)
                tile = tile.with_child("nonidealities", _changed(effects, kind, change, dotted((path, kind))))
        return tile


def _changed(effects: Node, kind: str, change: Node, path: str) -> Node:
    """A list of effects in which the one of that kind is changed, or gone."""
    at = place_of(effects, kind, functools.partial(wrong, change.key or change.mark, path))
    if change.value in (None, "none"):
        return effects.with_child(at, None)
    if not isinstance(change.value, dict):
        raise wrong(change.mark, path, f"expected none or fields to change, got {shown(change.data)}")
    return effects.with_child(at, merged(as_kinded(effects.items[at]), change))


def _appended(tile: Node, append: Node, path: str) -> Node:
    """The tile with more effects at the end."""
    if not isinstance(append.value, tuple):
        raise wrong(append.mark, path, f"expected a list of effects, got {shown(append.data)}")
    effects = tile.child("nonidealities") or append.with_value(())
    if not isinstance(effects.value, tuple):
        return tile
    return tile.with_child("nonidealities", effects.with_value(effects.value + append.value))


def merged(base: Node | None, over: Node) -> Node:
    """`over` on top of `base`: mappings merge, everything else is replaced; so are the fields of another kind."""
    if base is None or not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    kind = over.child("kind")
    old = base.child("kind")
    if kind is not None and old is not None and not same_kind(kind.value, old.value):
        return over
    if old is not None:
        base, over = by_present_names(base, old.value), by_present_names(over, old.value)
    return over.with_value({**base.value, **{k: merged(base.value.get(k), v) for k, v in over.value.items()}})


def same_kind(a: object, b: object) -> bool:
    """Whether two names are of one kind; one may be its former name."""
    return a == b or (kind_form(a) and kind_form(b) and registry.present_kind(str(a)) == registry.present_kind(str(b)))


def by_present_names(node: Node, kind: object) -> Node:
    """The fields of a kind by today's names, so that a former name and the present one meet."""
    if not kind_form(kind) or not isinstance(node.value, dict):
        return node
    try:
        return node.with_value(registry.resolve(str(kind)).by_present_names(node.value))
    except PluginError:
        return node  # an unknown kind is reported where it is checked


def spelled_out(node: Node | None) -> Node | None:
    """A tile, or a file, with its shorthands written as mappings, so that single fields can be put on top."""
    if node is None or not isinstance(node.value, dict):
        return node
    value = dict(node.value)
    for name, slot in SLOTS.items():
        if name in value:
            value[name] = as_kinded(value[name], slot.kind)
    training = node.child("training")
    if training is not None and "backward" in training.entries:
        value["training"] = training.with_child("backward", as_mapping(training.value["backward"], "mode"))
    return node.with_value(value)


def as_kinded(node: Node, default: str | None = None) -> Node:
    """A bare kind as a mapping, and a mapping without a kind with the usual one."""
    node = as_mapping(node, "kind")
    if isinstance(node.value, dict) and "kind" not in node.value and default is not None:
        return node.with_child("kind", Node(default, node.mark))
    return node


def as_mapping(node: Node, field: str) -> Node:
    """A bare word as {field: word}; `none` stays."""
    if isinstance(node.value, str) and node.value != "none":
        return node.with_value({field: Node(node.value, node.mark)})
    return node


def place_of(effects: Node, kind: str, error: Callable[[str], ConfigError]) -> int:
    """Where a kind stands in a list of effects; raises `error(why)` unless that is exactly one place."""
    kinds = [(e.child("kind") or e).data for e in effects.items]
    places = [i for i, k in enumerate(kinds) if same_kind(k, kind)]
    if not places:
        known = dict.fromkeys(k for k in kinds if isinstance(k, str))
        raise error(f"no {kind!r} to change; {suggest(kind, known, 'effects of this tile')}")
    if len(places) > 1:
        instead = "write the whole list instead, or with --set its index, e.g. [0]"
        raise error(f"{kind!r} stands {len(places)} times in the list; {instead}")
    return places[0]
