"""`mho translate`: the configuration of another tool as a hardware file."""

from pathlib import Path

import click

MOST = 1 << 24  # bytes of a configuration


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the hardware file there [print it].")
def translate(config: Path, out: Path | None) -> None:
    """A configuration of aihwkit or CrossSim as a hardware file, with a table of what became what and what has no counterpart.

    CONFIG is JSON: parameters of CrossSim, or the fields of an rpu_config of aihwkit.
    """
    import json

    from mho.ground import MhoError, write_atomically
    from mho_exchange.configs import translated

    try:
        with config.open("rb") as file:  # a device may never end
            made = translated(json.loads(file.read(MOST)))
    except ValueError as e:
        raise MhoError(f"{config} is not JSON: {e}") from None
    click.echo(made, err=out is None)
    click.echo(made.yaml if out is None else f"hardware file: {write_atomically(out, made.yaml)}", nl=out is not None)
