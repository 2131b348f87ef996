"""`mho test`: the conformance kit on everything that a plugin provides."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mho.config import parse_value, registry, suggest
from mho.ground import MhoError

if TYPE_CHECKING:
    from mho_kit import Outcome


@click.command()
@click.argument("plugin", metavar="PLUGIN|FILE")
@click.option("--kind", "only", metavar="KIND", help="Test this part alone.")
@click.option("--with", "given", multiple=True, metavar="YAML", help="Test a kind with these values (repeatable).")
@click.option("--json", "as_json", is_flag=True, help="Print every check as JSON.")
def test(plugin: str, only: str | None, given: tuple[str, ...], as_json: bool) -> None:
    """Run the conformance kit on everything that an installed PLUGIN (its family) or a Python FILE provides: effects,
    mappings, converters, compensations, corrections, surrogates, layers, training methods, quantisers and columns of sweeps,
    each with its contract.

    Kinds are tested with their defaults, or with the `example` of their class. Exit code 1 if a check fails that is not
    among the `expected_failed_checks` of the class, or if one of these passes.

    \b
    examples:
      mho test pcm
      mho test my_effects.py --kind mine.drift
      mho test mine --with "{kind: mine.drift, nu: 0.1}"
    """
    values = dict(_given(text) for text in given)
    parts = _parts(plugin, only)
    if strange := [kind for kind in values if kind not in parts]:
        raise MhoError(f"--with: {plugin} has no {strange[0]!r}; {suggest(strange[0], parts, 'it provides')}")
    results: dict[str, list[Outcome]] = {}
    for name, cls in parts.items():
        results[name] = _tested(name, _made(cls, values.get(name)) if hasattr(cls, "KIND") else cls, quiet=as_json)
    failed = sum(o.state == "failed" for outcomes in results.values() for o in outcomes)
    if as_json:
        click.echo(json.dumps({k: [o._asdict() for o in outcomes] for k, outcomes in results.items()}, indent=1))
    else:
        click.echo(f"{failed} checks failed" if failed else f"everything that {plugin} provides keeps its contract")
    if failed:
        raise click.exceptions.Exit(1)


def _parts(plugin: str, only: str | None) -> dict[str, Any]:
    """What is to be tested: kind -> class, "layer NAME" -> class, "column NAME" -> function."""
    from mho_kit.outcomes import CONTRACTS

    is_file = Path(plugin).suffix == ".py"
    provided = registry.default().load_file(plugin) if is_file else registry.default().load(plugin)
    named = [(cls.CATEGORY, kind, cls) for kind, cls in provided.kinds.items()]
    named += [("layer", f"layer {cls.__name__}", cls) for cls in provided.named("layer").values()]
    named += [("column", f"column {name}", registry.thing(what)) for name, what in provided.named("column").items()]
    found = {name: part for category, name, part in named if category in CONTRACTS}
    if not found:
        raise MhoError(f"{plugin} provides nothing that the conformance kit is about")
    if only is not None and only not in found:
        raise MhoError(f"{plugin} has no {only!r}; {suggest(only, found, 'it provides')}")
    return {k: cls for k, cls in found.items() if only in (None, k)}


def _given(text: str) -> tuple[str, dict[str, Any]]:
    values = parse_value(text, f"--with {text}").data
    if not isinstance(values, dict) or not isinstance(values.get("kind"), str):
        raise MhoError(f"--with {text}: expected an effect with its kind, e.g. '{{kind: pcm.stuck_at, off: 0.01}}'")
    return values["kind"], values


def _made(cls: Any, values: dict[str, Any] | None) -> Any:
    from pydantic import ValidationError

    try:
        return cls.model_validate(cls.example if values is None else values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"]
        raise MhoError(
            f"{cls.KIND} cannot be made: {first}; give its class an `example`, or say --with '{{kind: {cls.KIND}, ...}}'"
        ) from None


def _tested(name: str, part: Any, quiet: bool) -> list[Outcome]:
    """Run the checks of one part; say how they ended."""
    from mho_kit import contract_of, run

    column, _, of = name.partition(" ")
    outcomes = run(contract_of(part, **({"name": of} if column == "column" else {})))
    if quiet:
        return outcomes
    counts = Counter(o.state for o in outcomes)
    words = f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} do not apply"
    words += f", {counts['expected']} failed as declared" * bool(counts["expected"])
    click.echo(f"{name}: {words} ({sum(o.seconds for o in outcomes):.1f} s)")
    causes: dict[tuple[str, str], list[str]] = {}  # each once, however many checks it fails
    for o in outcomes:
        if o.state in ("failed", "expected"):
            causes.setdefault((o.state, o.message), []).append(o.check)
    for (_, message), checks in causes.items():
        click.echo(f"  {', '.join(checks)}\n      {message}")
    return outcomes
