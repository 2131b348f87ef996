"""Reports: one HTML file each that needs nothing else, no script and no network.

`write_report(folder)` makes the page of a result folder. Pages of your own are put together from blocks:

    from mho_lab import report

    report.write_page("page.html", "What costs accuracy", [report.lines(...), report.heatmap(...), report.table(...)])
"""

import sys
from types import ModuleType
from typing import Any

from mho.ground import offers

__getattr__, __all__ = offers(__name__, __file__)


class _Report(ModuleType):
    """`mho.report(net)` is the report about a network."""

    def __call__(self, net: Any) -> Any:
        from mho.use import conversion_report

        return conversion_report(net)


sys.modules[__name__].__class__ = _Report
