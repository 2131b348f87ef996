"""`mho lifetime`: how long the error of a matrix-vector product stays below a limit."""

from __future__ import annotations

import click


@click.command()
@click.argument("hardware", metavar="HW")
@click.option("--limit", default=0.2, show_default=True, help="Largest relative error that is good enough.")
@click.option("--seed", default=0, show_default=True)
def lifetime(hardware: str, limit: float, seed: int) -> None:
    """Print the last of the times 1 s, 10 s, ... at which the error of one chip is below the limit."""
    import torch

    import mho
    from mho.config import format_seconds

    torch.manual_seed(seed)
    weight, x = torch.randn(128, 128), torch.rand(64, 128) * 2 - 1
    tile = mho.Tile(weight, hardware).program(seed=seed)
    exact, good = x @ weight.T, []
    with torch.no_grad():
        for t in (10.0**k for k in range(9)):
            if (tile.age(t)(x) - exact).norm() < limit * exact.norm():
                good.append(t)
    click.echo(f"good until {format_seconds(good[-1])}" if good else "never good enough")
