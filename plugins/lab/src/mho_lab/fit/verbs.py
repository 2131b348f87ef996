"""`mho fit`: from a table of measurements to the parameters of an effect, with error bars and a verdict."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import click

from mho.ground import MhoError, table, writing
from mho_lab.options import EXISTING, SEED, checked, count, folder, several, switch


@click.command()
@click.argument("data", type=EXISTING)
@click.option("--kind", required=True, metavar="KIND", help="The effect to fit, e.g. pcm.drift.")
@several("--map", "names", "NAME=COLUMN", "NAME in the file is COLUMN (repeatable).")
@several("--fix", "fixed", "FIELD=VALUE", "Do not fit this field (repeatable).")
@several("--start", "started", "FIELD=VALUE", "Search from this value (repeatable).")
@click.option("--g-max", metavar="G", help="Range of the devices, e.g. '25 uS' [default: the largest conductance].")
@folder("--out", "Write fit.yaml, fit.json and fit.svg to this folder.")
@count("--draws", 99, "Simulated data sets for the verdict.", least=99)
@SEED
@switch("--force", "Give the parameters of a rejected model all the same.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.pass_context
def fit(
    ctx: click.Context, data: Path, kind: str, names: tuple[str, ...], fixed: tuple[str, ...], started: tuple[str, ...],
    g_max: str | None, out: Path | None, draws: int, seed: int, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Fit the effect KIND to the measurements in DATA, a CSV file (.csv or .csv.gz).

    Maximum likelihood; standard errors from the observed information; goodness of fit against data sets simulated from
    the fitted model. Exit code 2: the model does not fit (p <= 0.01), and no parameters are given without --force.

    \b
    examples:
      mho fit readings.csv --kind pcm.programming_noise --map 'G (uS)=g' --out fitted
      mho fit drift.csv --kind pcm.drift --fix t0='200 s' --g-max '25 uS'
    """
    from tqdm import tqdm

    from mho_lab.fit import fitting, outcome

    cls = _effect(kind)
    held = _values(cls, fixed, "--fix")
    effect = checked(cls, {**_values(cls, started, "--start"), **held})
    columns = fitting.column_names(names, cls.fit_columns)
    table = fitting.read_csv(data, cls.fit_columns, columns, None if g_max is None else _micro_siemens(g_max))
    with tqdm(desc="simulated data sets", total=draws, disable=not sys.stderr.isatty(), leave=False) as bar:
        result = fitting.fit(effect, table, fixed=list(held), draws=draws, seed=seed, tick=bar.update)
    give = force or not (result.goodness is not None and result.goodness.rejected)
    if out is not None:
        _write(result, out, give)
    click.echo(json.dumps(outcome.as_data(result), indent=1) if as_json else _text(result, give, out))
    if not give:
        ctx.exit(2)


def _effect(kind: str) -> Any:
    from mho.config import registry
    from mho_lab.fit.fitting import fittable, known

    cls = registry.resolve(kind, "nonideality")
    if not fittable(cls):
        for family in registry.default().claims:
            registry.default().load(family)
        raise MhoError(f"{kind} does not say how it is fitted; kinds that do: {known(registry.kinds('nonideality'))}")
    return cls


def _values(cls: Any, pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """FIELD=VALUE pairs, the values read like YAML."""
    from mho.config import parse_value, suggest

    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not text:
            raise MhoError(f"expected {option} FIELD=VALUE, got {pair!r}")
        if name not in cls.model_fields or name == "kind":
            known = [f for f in cls.model_fields if f != "kind"]
            raise MhoError(f"{option} {pair}: {cls.KIND} has no field {name!r}; {suggest(name, known, 'fields')}")
        values[name] = parse_value(text, f"{option} {pair}").data
    return values


def _micro_siemens(text: str) -> float:
    from mho.config.units import parse

    value = parse(text, "uS")
    if value <= 0:
        raise MhoError(f"--g-max: expected a conductance above 0, got {text!r}")
    return value


def _write(result: Any, out: Path, give: bool) -> None:
    from mho_lab.fit import outcome

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "fit.json").write_text(json.dumps(outcome.as_data(result), indent=1) + "\n")
        outcome.figure(result, out / "fit.svg")
        if give:
            (out / "fit.yaml").write_text(outcome.fragment(result))


def _text(result: Any, give: bool, out: Path | None) -> str:
    from mho_lab.fit import outcome

    def shown(value: float) -> str:
        return f"{value:.3g}" if math.isfinite(value) else "at its bound"

    d, g = result.data, result.goodness
    rows = [(n, f"{v:.6g}", shown(e)) for n, v, e in zip(result.names, result.values, result.errors)]
    skipped = f", {d.skipped} rows with an empty cell left out" if d.skipped else ""
    verdict = "REJECTED: the data do not look like this model" if g.rejected else "not rejected"
    lines = [
        f"{result.effect.kind}: {len(d)} rows, g_max {d.g_max:g} uS{skipped}",
        table(("parameter", "value", "standard error"), rows, right=(1, 2)),
        f"goodness of fit: p = {g.p:.2g} ({g.draws} simulated data sets), {verdict}",
        f"largest distance between the distributions: {g.distance:.3g}; ln L = {result.log_likelihood:.6g}",
    ]
    if out is not None:
        lines.append(f"wrote {out}{'' if give else ' (no fit.yaml; --force gives the parameters all the same)'}")
    elif give:
        lines += ["", outcome.fragment(result).rstrip()]
    else:
        lines.append("--force gives the parameters all the same")
    return "\n".join(lines)
