"""`mho test`: the conformance kit on every effect of a plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mho import registry
from mho.errors import MhoError
from mho.schema import suggest

if TYPE_CHECKING:
    from mho.nonideality import Nonideality
    from mho.testing import Outcome


@click.command()
@click.argument("plugin", metavar="PLUGIN|FILE")
@click.option("--kind", "only", metavar="KIND", help="Test this effect alone.")
@click.option("--with", "given", multiple=True, metavar="YAML", help="Test an effect with these values (repeatable).")
@click.option("--json", "as_json", is_flag=True, help="Print every check as JSON.")
def test(plugin: str, only: str | None, given: tuple[str, ...], as_json: bool) -> None:
    """Run the conformance kit on every nonideality of an installed PLUGIN (its family), or of a Python FILE.

    Effects are tested with their defaults, or with the `example` of their class. Exit code 1 if a check fails.

    \b
    examples:
      mho test pcm
      mho test my_effects.py --kind mine.drift
      mho test mine --with "{kind: mine.drift, nu: 0.1}"
    """
    values = dict(_given(text) for text in given)
    results: dict[str, list[Outcome]] = {}
    for kind, cls in _effects(plugin, only).items():
        effect = _effect(cls, values.get(kind))
        results[kind] = _tested(effect, quiet=as_json)
    failed = sum(o.state == "failed" for outcomes in results.values() for o in outcomes)
    if as_json:
        click.echo(json.dumps({k: [o._asdict() for o in outcomes] for k, outcomes in results.items()}, indent=1))
    else:
        click.echo(f"{failed} checks failed" if failed else f"all effects of {plugin} keep the contract")
    if failed:
        raise click.exceptions.Exit(1)


def _effects(plugin: str, only: str | None) -> dict[str, Any]:
    """kind -> class of the effects to test."""
    is_file = Path(plugin).suffix == ".py"
    kinds = registry.load_file(plugin) if is_file else registry.default().load(plugin).kinds
    found = {k: registry.resolve(k) for k in kinds if registry.resolve(k).CATEGORY == "nonideality"}
    if not found:
        raise MhoError(f"{plugin} provides no nonideality; the conformance kit is about those")
    if only is not None and only not in found:
        raise MhoError(f"{plugin} has no nonideality {only!r}; {suggest(only, found, 'nonidealities')}")
    return {k: cls for k, cls in found.items() if only in (None, k)}


def _given(text: str) -> tuple[str, dict[str, Any]]:
    from mho.yamltext import parse_value

    values = parse_value(text, f"--with {text}").data
    if not isinstance(values, dict) or not isinstance(values.get("kind"), str):
        raise MhoError(f"--with {text}: expected an effect with its kind, e.g. '{{kind: pcm.stuck_at, off: 0.01}}'")
    return values["kind"], values


def _effect(cls: Any, values: dict[str, Any] | None) -> Nonideality:
    from pydantic import ValidationError

    try:
        return cls.model_validate(cls.example if values is None else values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]["msg"]
        raise MhoError(
            f"{cls.KIND} cannot be made: {first}; give its class an `example`, or say --with '{{kind: {cls.KIND}, ...}}'"
        ) from None


def _tested(effect: Nonideality, quiet: bool) -> list[Outcome]:
    """Run the checks of one effect; say how they ended."""
    from mho.testing import contract_of, run

    outcomes = run(contract_of(effect))
    if quiet:
        return outcomes
    counts = {state: sum(o.state == state for o in outcomes) for state in ("passed", "failed", "skipped")}
    words = f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} do not apply"
    click.echo(f"{effect.kind}: {words} ({sum(o.seconds for o in outcomes):.1f} s)")
    for o in outcomes:
        if o.state == "failed":
            click.echo(f"  {o.check}\n      {o.message}")
    return outcomes
