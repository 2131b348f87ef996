"""The commands of mho: runs, studies, sweeps, reports and fits.

What plugins build on is offered here, imported when it is used: `Task` and `Score`; `Study` with `study_options` for a study
with a verb of its own, `Subject` and `scores` for what it measures, `search`, `threshold` and `Effort` for bisections of
chips, `Page` and `Part` for what it shows; `tile_uses` and `first_sample` for what counts; the sub-packages
`report` (pages), `sweep` (many items in a folder that survives interruptions) and `fit`.
"""

from mho import hookimpl
from mho.ground import offers

__getattr__, __all__ = offers(__name__, __file__)


@hookimpl
def mho_tasks() -> dict[str, str]:
    """The built-in tasks; their family may be left out: `mho run digits ...`."""
    return {"lab.digits": "mho_lab.run.digits:Digits"}


@hookimpl
def mho_calibrations() -> dict[str, str]:
    """Searches of input ranges and of conductance ranges, by the MVM error."""
    return {"dac.mse": "mho_lab.run.search:mse", "columns.grid": "mho_lab.run.search:columns"}


@hookimpl
def mho_pages() -> dict[str, str]:
    """Pages that were kept as data (studies, footprints), of runs, and of sweeps."""
    return {
        "page.json": "mho_lab.report.blocks:kept_page",
        "summary.json": "mho_lab.run.page:run_page",
        "plans": "mho_lab.sweep.page:sweep_page",
    }
