"""Blocks and pages: `__init__.py` reads the names here and imports each on first use."""

from mho_lab.report.blocks import Block as Block, bars as bars, code as code, facts as facts, heatmap as heatmap
from mho_lab.report.blocks import histogram as histogram, lines as lines, page as page, scatter as scatter, table as table
from mho_lab.report.blocks import text as text, tiles as tiles, write_page as write_page
from mho_lab.report.figures import TileGrid as TileGrid
from mho_lab.report.folders import report_of as report_of, write_report as write_report
