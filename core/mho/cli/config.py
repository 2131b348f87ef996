"""`mho check`, `show`, `init`, `schema`: look at hardware files and explain them."""

import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic_core import PydanticUndefined

from mho.config import Hardware, Kinded, Strict, TileSpec, format_seconds, kind_form, load, registry, suggest
from mho.config.hardware import find, json_schema
from mho.config.schema import FieldNote
from mho.config.slots import SLOTS
from mho.ground import MhoError, PluginError, system_error, table

SET = click.option("--set", "changes", multiple=True, metavar="PATH=VALUE", help="Change a value (repeatable).")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
# Slot of a tile -> the stage at which its part acts, and what it does there.
ACTS = {
    "mapping": ("map", "weights to conductances"),
    "dac": ("dac", "quantises inputs"),
    "adc": ("adc", "quantises outputs"),
    "compensation": ("compensate", "a digital gain, measured at every age"),
}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="HW...")
@SET
def check(files: tuple[str, ...], changes: tuple[str, ...]) -> None:
    """Say everything that is wrong with hardware files or presets.

    \b
    examples:
      mho check pcm.yaml
      mho check pcm.yaml --set tiles.pcm.adc.bits=6
    """
    wrong = 0
    for file in files:
        try:
            hardware = load(file, set=changes)
            _build(hardware, file)
        except MhoError as error:
            wrong += 1
            click.echo(str(error), err=True)
        else:
            click.echo(f"{file}: ok, {summary(hardware)}")
    if wrong:
        raise click.exceptions.Exit(1)


def _build(hardware: Hardware, file: str) -> None:
    """One small layer on every tile, ready to train and programmed: what `mho run` would refuse is refused here. Parts of mho
    itself need no torch to be checked, and always fit."""
    methods = hardware.training.all_methods
    for name, tile in hardware.tiles.items():
        if tile.nonidealities or methods:
            import torch

            from mho.use import attach, program, to_analog

            try:
                net = to_analog(torch.nn.Linear(4, 4), load(hardware, set=[f"default={name}", "layers=[]"]))
                attach(torch.optim.SGD(net.parameters(), lr=0.1), net, steps_per_epoch=1)
                program(net, seed=0, age=hardware.times[-1])
            except MhoError as error:
                raise MhoError(f"{file}  tiles.{name}\n    {error}") from error


def summary(hardware: Hardware) -> str:
    """Tiles and effects of a hardware in one line, and the tiles that nothing uses: a misspelt name makes one."""
    effects = dict.fromkeys(str(e.KIND) for tile in hardware.tiles.values() for e in tile.nonidealities)
    tiles = ", ".join(f"{name} {t.rows}x{t.columns}" for name, t in hardware.tiles.items())
    used = {hardware.default, *(rule.tile for rule in hardware.layers)}
    idle = ", ".join(name for name in hardware.tiles if name not in used)
    told = f"tiles: {tiles or 'none'}; effects: {', '.join(effects) or 'none'}"
    return f"{told}; no layer goes to: {idle}" if idle else told


@click.command()
@click.argument("name", metavar="KIND|HW")
@SET
@JSON
def show(name: str, changes: tuple[str, ...], as_json: bool) -> None:
    """Explain every field of a kind, a preset or a hardware file: value, unit, range, meaning and source.

    \b
    examples:
      mho show pcm.drift
      mho show pcm.standard
      mho show pcm.yaml --json
    """
    cls = _kind(name)
    if cls is not None:
        click.echo(json.dumps(explain_kind(cls), indent=2) if as_json else kind_text(cls))
        return
    hardware = load(name, set=changes)
    if as_json:
        click.echo(json.dumps(hardware.to_data(), indent=2))
    else:
        click.echo("\n\n".join([hardware_text(hardware), *plans(hardware)]))


def plans(hardware: Hardware) -> Iterator[str]:
    """What every tile computes, in the order of the physics, and how."""
    from mho.tile import installed

    for name, tile in hardware.tiles.items():
        if rows := plan_rows(tile):
            yield f"plan of tiles.{name}\n" + table(("stage", "part", "what it does"), rows, indent=2)
    none = [("precision", "reference: no back-end is installed; try: pip install mho-fast")]
    backend = installed()
    explained = backend.explain(hardware) if backend else dict.fromkeys(hardware.tiles, none)
    for name, ways in explained.items():
        how = table(("part", "how"), ways, indent=2)
        yield f"route of tiles.{name} on this machine\n{how}"


def plan_rows(tile: TileSpec) -> list[tuple[str, str, str]]:
    """(stage, part, what it does there): mapping, programming, ageing, then one product."""
    from mho.effects import TABLE, Nonideality
    from mho.tile import resolve

    effects = tuple(e for e in tile.nonidealities if isinstance(e, Nonideality))
    rows = [(stage, kind, f"{what}, {TABLE[stage].when}") for stage, kind, what in resolve(effects, "").explain()]
    if all(stage != "mvm" for stage, *_ in rows):
        rows.append(("mvm", "", "the exact product"))
    for slot, (stage, what) in ACTS.items():
        if (part := getattr(tile, slot)) is not None:
            rows.append((stage, str(part.KIND), what))
    rows += [("off", str(e.KIND), f"{e.strength} is 0") for e in effects if not e.active]
    order = {name: i for i, name in enumerate(TABLE)}
    return sorted(rows, key=lambda row: order.get(row[0], len(order)))


def _kind(name: str) -> type[Kinded] | None:
    """The class of that kind; None if the name is a file or a preset."""
    if not kind_form(name) or name in registry.presets() or Path(name).is_file():
        return None
    try:
        return registry.resolve(name)
    except PluginError as error:
        if not str(error).startswith("unknown kind"):
            raise
        names = [*registry.kinds(), *registry.presets()]
        raise PluginError(f"no kind, preset or file {name!r}; {suggest(name, names, 'known')}") from None


# --- text ---


def kind_text(cls: type[Kinded]) -> str:
    """All that is known about a kind."""
    parts = [f"{cls.KIND}  ({cls.CATEGORY})", textwrap.indent(inspect.cleandoc(cls.__doc__ or ""), "  ")]
    if cls.source:
        parts.append(f"  source: {cls.source}")
    if cls.strength:
        parts.append(f"  strength: {cls.strength} (0 removes the effect)")
    notes = [note for note in cls.notes() if note.name != "kind"]
    return "\n".join([*parts, "", _fields(notes, {}) if notes else "  no fields"])


def explain_kind(cls: type[Kinded]) -> dict[str, Any]:
    """All that is known about a kind, as data."""
    fields = []
    for n in cls.notes():
        fields.append({**vars(n), "default": None if n.required else _as_text(n.default, n.unit), "required": n.required})
    doc = inspect.cleandoc(cls.__doc__ or "")
    return {"kind": cls.KIND, "category": cls.CATEGORY, "doc": doc, "source": cls.source, "fields": fields}


def hardware_text(hardware: Hardware) -> str:
    """All fields of a hardware: tiles first, then training, then the rest."""
    title = f"hardware: {hardware.description}" if hardware.description else "hardware"
    parts = _blocks(title, hardware, skip=("mho", "description", "tiles", "layers", "training"))
    for name, tile in hardware.tiles.items():
        parts += _blocks(f"tiles.{name}", tile)
    if hardware.layers:
        modes = [r.backward.mode if r.backward else "as in training" for r in hardware.layers]
        rows = [(r.match, r.tile, m, at) for r, m, at in zip(hardware.layers, modes, hardware.rule_sources)]
        parts.append("layers\n" + table(("match", "tile", "backward", "written at"), rows, indent=2))
    return "\n\n".join(parts + _blocks("training", hardware.training))


def _blocks(path: str, model: Strict, skip: tuple[str, ...] = ()) -> list[str]:
    """A model as a titled table, and behind it every model in it."""
    kind = f": {model.KIND}" if isinstance(model, Kinded) else ""
    values, blocks = {}, []
    for name, value in model:
        parts = {f"{name}[{i}]": v for i, v in enumerate(value)} if isinstance(value, tuple) else {name: value}
        if name in skip or name == "kind":
            continue
        if name in SLOTS and value is None:
            blocks.append(f"{path}.{name}: none")
        elif parts and all(isinstance(part, Strict) for part in parts.values()):
            blocks += [block for n, part in parts.items() for block in _blocks(f"{path}.{n}", part)]
        else:
            values[name] = value
    notes = [n for n in type(model).notes() if n.name in values]
    return [f"{path}{kind}" + (f"\n{_fields(notes, values)}" if notes else ""), *blocks]


def _fields(notes: list[FieldNote], values: dict[str, Any]) -> str:
    """A table of fields; a star marks values that are not the default."""
    rows = []
    for n in notes:
        value = values.get(n.name, n.default)
        changed = "*" if n.name in values and not n.required and n.default != value else ""
        unit = n.unit if n.unit != "1" else ""
        rows.append((n.name, _as_text(value, n.unit) + changed, unit, n.accepts, n.description, n.source))
    return table(("field", "value" if values else "default", "unit", "accepts", "meaning", "source"), rows, wrap=4, indent=2)


def _as_text(value: Any, unit: str) -> str:
    if value is PydanticUndefined:
        return "(required)"
    if isinstance(value, tuple):
        return ", ".join(_as_text(v, unit) for v in value) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return format_seconds(value) if unit == "s" else f"{value:g}"
    if isinstance(value, Kinded):
        return str(value.KIND)
    return "none" if value is None else str(value) or "-"


# --- init and schema ---


@click.command()
@click.argument("preset")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def init(preset: str, file: Path | None, force: bool) -> None:
    """Copy PRESET into FILE (default: PRESET.yaml), to be changed.

    \b
    examples:
      mho init pcm.standard
      mho init pcm.standard my_chip.yaml
    """
    path, name = find(preset)
    if name is None:
        raise MhoError(f"{preset!r} is a file; expected a preset: {', '.join(registry.presets()) or 'none installed'}")
    target = file or Path(f"{name}.yaml")
    try:
        with target.open("wb" if force else "xb") as out:
            out.write(path.read_bytes())
    except FileExistsError:
        raise MhoError(f"{target} exists already; choose another file, or overwrite it with --force") from None
    except OSError as error:
        raise MhoError(f"cannot write {target}: {system_error(error)}") from None
    click.echo(f"wrote {target}; next: mho mvm {target}")


@click.command()
@click.argument("families", nargs=-1, metavar="[FAMILY...]")
def schema(families: tuple[str, ...]) -> None:
    """Print a JSON schema of hardware files with the kinds of all installed plugins, or of these families.

    \b
    example:
      mho schema > mho.schema.json
    """
    click.echo(json.dumps(json_schema(families or None), indent=2))
