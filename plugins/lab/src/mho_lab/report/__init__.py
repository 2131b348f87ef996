"""Reports: one HTML file each that needs nothing else, no script and no network.

`write_report(folder)` makes the page of a result folder. Pages of your own are put together from blocks:

    from mho_lab import report

    report.write_page("page.html", "What costs accuracy", [report.lines(...), report.heatmap(...), report.table(...)])
"""

import sys
from types import ModuleType
from typing import Any

from mho.use import conversion_report
from mho_lab.report.blocks import (
    Block,
    bars,
    code,
    facts,
    heatmap,
    histogram,
    lines,
    page,
    scatter,
    table,
    text,
    tiles,
    write_page,
)
from mho_lab.report.figures import TileGrid
from mho_lab.report.folders import report_of, write_report


class _Report(ModuleType):
    """`mho.report(net)` is the report about a network."""

    def __call__(self, net: Any) -> Any:
        return conversion_report(net)


sys.modules[__name__].__class__ = _Report
