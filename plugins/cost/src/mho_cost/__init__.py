"""What analog hardware costs, beside what it computes: counts, energy, latency and area from tables with sources and bands,
columns of sweeps with Pareto fronts, and maps of what devices must reach."""

from mho import hookimpl
from mho_cost.tables import CostTable


@hookimpl
def mho_columns() -> dict[str, str]:
    """Columns of sweeps: `--column energy:TABLE`, `--pareto energy:TABLE`."""
    return {name: f"mho_cost.columns:{name}" for name in ("energy", "latency", "interval", "area")}
