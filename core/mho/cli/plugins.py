"""`mho plugins` and `doctor`: what is installed, and whether it works."""

import importlib.metadata
import json
import platform
from collections.abc import Callable
from dataclasses import asdict

import click

from mho.cli import VERBS, plugin_verbs, verb
from mho.config import registry
from mho.config.distributions import owners
from mho.ground import ConfigError, MhoError, table

# What mho needs to run, as distributions.
NEEDS = ("torch", "numpy", "pluggy", "pydantic", "pyyaml", "safetensors", "click", "tqdm", "packaging")


@click.command()
@click.option("--load", "load_all", is_flag=True, help="Import every plugin and list its kinds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plugins(load_all: bool, as_json: bool) -> None:
    """List installed plugins. Without --load nothing is imported, so a broken plugin does no harm.

    The environment variable MHO_PLUGINS allows only the families that it names (e.g. pcm,circuit); without it, all.
    """
    found = registry.default().load_all() if load_all else registry.providers()
    if as_json:
        click.echo(json.dumps([asdict(p) for p in found], indent=2))
        return
    head = ("family", "distribution", "version", "state", "presets", "provides")
    click.echo(table(head, [(p.family, p.distribution, p.version, p.state, _short(p.presets), _provides(p)) for p in found]))
    for p in found:
        if p.reason:
            click.echo(f"\n{p.family} ({p}): {p.reason}")
    for text in registry.default().unknown_allowed():
        click.echo(f"\n{text}")


def _provides(p: registry.Provider) -> str:
    return ", ".join(filter(None, (_short(p.kinds), *p.classes)))


def _short(names: tuple[str, ...]) -> str:
    """pcm.drift, pcm.read_noise -> drift, read_noise: the family stands in the first column."""
    return ", ".join(name.partition(".")[2] for name in names)


@click.command()
def doctor() -> None:
    """Load every plugin, preset and verb, and say what is broken and what to do."""
    rows = [("python", platform.python_version(), "ok", ""), *map(_need, NEEDS)]
    from mho.config import load

    found = registry.default().load_all()
    rows += [(f"plugin {p.family or p.distribution}", p.version, p.state, p.reason) for p in found]
    rows += [(registry.ALLOWED, "", "failed", text) for text in registry.default().unknown_allowed()]
    rows += [(f"preset {name}", "", *_tried(load, name)) for name in registry.presets()]
    rows += [(f"verb {name}", "", *_tried(_verb, name)) for name in plugin_verbs()]
    click.echo(table(("what", "version", "state", "why"), rows))
    broken = sum(row[2] not in ("ok", "off") for row in rows)
    if broken:
        raise MhoError(f"{broken} of {len(rows)} are not in order")
    click.echo("all is in order")


def _need(name: str) -> tuple[str, str, str, str]:
    try:
        return name, importlib.metadata.version(name), "ok", ""
    except importlib.metadata.PackageNotFoundError:
        return name, "", "missing", f"try: pip install {name}"


def _tried(function: Callable[[str], object], name: str) -> tuple[str, str]:
    """Whether a preset is a valid hardware file, or a verb can be imported; and if not, why."""
    try:
        function(name)
    except ConfigError as error:
        first, more = error.problems[0], len(error.problems) - 1
        why = f"{first.mark}  {first.path}: {first.message}"
        return "failed", f"{why} (and {more} more; try: mho check {name})" if more else why
    except MhoError as error:
        return "failed", str(error)
    return "ok", ""


def _verb(name: str) -> None:
    if name in VERBS:
        raise MhoError(f"{owners(plugin_verbs()[name])} claims a verb of mho itself")
    verb(name)
