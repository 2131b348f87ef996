"""`like`, `override` and `append`: hardware files that build on others, as trees in which every value keeps its place."""

from __future__ import annotations

from mho.config import registry
from mho.config.schema import kind_form, shown, suggest
from mho.config.slots import SLOTS
from mho.config.yamltext import Node, dotted, read
from mho.ground import ConfigError, Mark, MhoError, PluginError, Problem

MAX_LIKE = 50  # tiles that a tile is like, one after the other


class Files:
    """Resolves what files inherit from presets and tiles from each other; collects the problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._presets: dict[str, Node | None] = {}

    def resolved(self, tree: Node, chain: tuple[str, ...]) -> tuple[Node, Files]:
        """The tree of a file with everything inherited filled in; `chain` are the presets being read."""
        if not isinstance(tree.value, dict):
            message = f"expected a hardware file that begins with 'mho: 1', got {shown(tree.data)}"
            raise ConfigError([Problem(tree.mark, "", message)])
        base = None
        if "like" in tree.value:
            base = self._preset(tree.value["like"], "like", chain)
            base = base and base.with_value({k: v for k, v in base.value.items() if k != "description"})  # it was the other's
        own = tree.with_value({k: v for k, v in tree.value.items() if k not in ("like", "tiles")})
        result = merged(spelled_out(base), own)
        tiles = tree.child("tiles")
        inherited = base.child("tiles") if base is not None else None
        if tiles is not None and isinstance(tiles.value, dict):
            tiles = _Tiles(self, tiles, inherited, chain).resolved()
        if tiles is not None:
            result = result.with_value({**result.value, "tiles": tiles})
        return result, self

    def with_presets(self, tree: Node) -> Node:
        """Add the default tiles of presets that `default` or a rule names, so that the hardware is complete."""
        tiles, rules = tree.child("tiles"), tree.child("layers")
        if tiles is not None and not isinstance(tiles.value, dict):
            return tree
        found = dict(tiles.value) if tiles is not None else {}
        named = [(("default",), tree.child("default"))]
        for i, rule in enumerate(rules.value if rules is not None and isinstance(rules.value, tuple) else ()):
            named.append((("layers", i, "tile"), rule.child("tile")))  # type: ignore[arg-type]
        for path, node in named:
            if node is None or not kind_form(node.value) or node.value in found:
                continue
            tile = self.preset_tile(node, dotted(path), ())
            if tile is not None:
                found[node.value] = tile
        if not found:
            return tree
        return tree.with_value({**tree.value, "tiles": (tiles or Node({}, tree.mark)).with_value(found)})

    def preset_tile(self, name: Node, path: str, chain: tuple[str, ...]) -> Node | None:
        """The default tile of a preset."""
        tree = self._preset(name, path, chain)
        if tree is None:
            return None
        tree = self.with_presets(tree)
        default, tiles = tree.child("default"), tree.child("tiles")
        tile = tiles.child(default.value) if default is not None and tiles is not None else None
        if tile is None:
            self.complain(name.mark, path, f"preset {name.value!r} has no default tile")
        return tile

    def _preset(self, name: Node, path: str, chain: tuple[str, ...]) -> Node | None:
        """The resolved tree of a preset; None if there is none, which is then a problem."""
        preset = name.value
        if not isinstance(preset, str):
            self.complain(name.mark, path, f"expected a preset such as 'pcm.standard', got {shown(name.data)}")
            return None
        if preset in chain:
            self.complain(name.mark, path, f"presets inherit in a circle: {' -> '.join((*chain, preset))}")
            return None
        if preset not in self._presets:
            self._presets[preset] = None
            try:
                if not kind_form(preset):
                    raise PluginError(f"no preset {preset!r}; {suggest(preset, registry.presets(), 'presets')}")
                self._presets[preset] = self.resolved(read(registry.preset_path(preset)), (*chain, preset))[0]
            except ConfigError as error:
                self.problems += error.problems
            except MhoError as error:
                self.complain(name.mark, path, str(error))
        return self._presets[preset]

    def complain(self, mark: Mark, path: str, message: str) -> None:
        """Take down a problem."""
        self.problems.append(Problem(mark, path, message, rule=True))


class _Tiles:
    """Resolves the tiles of one file."""

    def __init__(self, files: Files, tiles: Node, inherited: Node | None, chain: tuple[str, ...]) -> None:
        self.files = files
        self.tiles = tiles
        self.own: dict[str, Node] = tiles.value
        self.inherited: dict[str, Node] = inherited.value if inherited is not None and isinstance(inherited.value, dict) else {}
        self.chain = chain
        self.done: dict[str, Node] = {}
        self.open: list[str] = []

    def resolved(self) -> Node:
        """All tiles, those of the inherited file first."""
        tiles = dict(self.inherited)
        for name in self.own:
            tiles[name] = self._tile(name)
        return self.tiles.with_value(tiles)

    def _tile(self, name: str) -> Node:
        if name not in self.done:
            self.open.append(name)
            self.done[name] = self._resolve(name, self.own[name])
            self.open.pop()
        return self.done[name]

    def _resolve(self, name: str, node: Node) -> Node:
        if not isinstance(node.value, dict):
            return node
        like = node.child("like")
        base = self._base(name, like) if like is not None else self.inherited.get(name)
        own = node.with_value({k: v for k, v in node.value.items() if k not in ("like", "override", "append")})
        tile = merged(spelled_out(base), own)
        path = f"tiles.{name}"
        if like is not None and base is None:  # whatever is to be overridden is not there
            return tile
        if (override := node.child("override")) is not None:
            tile = self._overridden(tile, override, f"{path}.override")
        if (append := node.child("append")) is not None:
            tile = self._appended(tile, append, f"{path}.append")
        return tile

    def _base(self, name: str, like: Node) -> Node | None:
        """The tile that `like` names: of this file, of the file it inherits, or a preset's."""
        path, wanted = f"tiles.{name}.like", like.value
        if not isinstance(wanted, str):
            self.files.complain(like.mark, path, f"expected the name of a tile or a preset, got {shown(like.data)}")
            return None
        if len(self.open) > MAX_LIKE:
            self.files.complain(like.mark, path, f"tiles are like each other over more than {MAX_LIKE} steps")
            return None
        if wanted in self.own and wanted != name and wanted not in self.open:
            return self._tile(wanted)
        if wanted in self.inherited:
            return self.inherited[wanted]
        if wanted in self.open:
            circle = " -> ".join((*self.open[self.open.index(wanted) :], wanted))
            self.files.complain(like.mark, path, f"tiles are like each other in a circle: {circle}")
            return None
        if kind_form(wanted):
            return self.files.preset_tile(like, path, self.chain)
        known = [n for n in (*self.own, *self.inherited, *registry.presets()) if n != name]
        self.files.complain(like.mark, path, f"no tile {wanted!r}; {suggest(wanted, known, 'tiles and presets')}")
        return None

    def _overridden(self, tile: Node, override: Node, path: str) -> Node:
        """Change effects by kind."""
        if not isinstance(override.value, dict):
            self.files.complain(override.mark, path, "expected kinds with changes, e.g. {pcm.drift: none}")
            return tile
        for kind, change in override.value.items():
            effects = tile.child("nonidealities") or Node((), override.mark, override.key)
            here, mark = dotted((path, kind)), change.key or change.mark
            places, complaint = places_of(effects, kind)
            if len(places) != 1:
                self.files.complain(mark, here, complaint)
            elif change.value in (None, "none"):
                tile = with_entry(tile, "nonidealities", without(effects, places[0]))
            elif isinstance(change.value, dict):
                changed = merged(as_kinded(effects.value[places[0]]), change)
                tile = with_entry(tile, "nonidealities", replaced(effects, places[0], changed))
            else:
                self.files.complain(change.mark, here, f"expected none or fields to change, got {shown(change.data)}")
        return tile

    def _appended(self, tile: Node, append: Node, path: str) -> Node:
        """Add effects at the end."""
        if not isinstance(append.value, tuple):
            self.files.complain(append.mark, path, f"expected a list of effects, got {shown(append.data)}")
            return tile
        effects = tile.child("nonidealities") or append.with_value(())
        if not isinstance(effects.value, tuple):
            return tile
        return with_entry(tile, "nonidealities", effects.with_value(effects.value + append.value))


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
    below = {k: merged(base.value.get(k), v) for k, v in over.value.items()}
    return over.with_value({**base.value, **below})


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
    for field, slot in SLOTS.items():
        if field in value:
            value[field] = as_kinded(value[field], slot.kind)
    training = node.child("training")
    if training is not None and isinstance(training.value, dict) and "backward" in training.value:
        value["training"] = with_entry(training, "backward", as_mapping(training.value["backward"], "mode"))
    return node.with_value(value)


def as_kinded(node: Node, default: str | None = None) -> Node:
    """A bare kind as a mapping, and a mapping without a kind with the usual one."""
    node = as_mapping(node, "kind")
    if isinstance(node.value, dict) and "kind" not in node.value and default is not None:
        return with_entry(node, "kind", Node(default, node.mark))
    return node


def as_mapping(node: Node, field: str) -> Node:
    """A bare word as {field: word}; `none` stays."""
    if isinstance(node.value, str) and node.value != "none":
        return node.with_value({field: Node(node.value, node.mark)})
    return node


def with_entry(node: Node, key: str, value: Node) -> Node:
    return node.with_value({**node.value, key: value})


def replaced(node: Node, at: int, value: Node) -> Node:
    return node.with_value((*node.value[:at], value, *node.value[at + 1 :]))


def without(node: Node, at: int) -> Node:
    return node.with_value((*node.value[:at], *node.value[at + 1 :]))


def places_of(effects: Node, kind: str) -> tuple[list[int], str]:
    """Where a kind stands in a list of effects; and what to say unless that is exactly one place."""
    items = effects.value if isinstance(effects.value, tuple) else ()
    kinds = [e.child("kind").data if isinstance(e.value, dict) and "kind" in e.value else e.value for e in items]
    places = [i for i, k in enumerate(kinds) if same_kind(k, kind)]
    if not places:
        known = dict.fromkeys(k for k in kinds if isinstance(k, str))
        return places, f"no {kind!r} to change; {suggest(kind, known, 'effects of this tile')}"
    return places, f"{kind!r} stands {len(places)} times in the list; write the whole list instead"
