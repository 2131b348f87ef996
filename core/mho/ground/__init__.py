"""What everything stands on: errors, tables, files."""

from mho.ground.arguments import plain, whole
from mho.ground.errorbars import NONE, number, percent, spread
from mho.ground.errors import ConfigError, Mark, MhoError, PluginError, Problem, Source
from mho.ground.extras import needed
from mho.ground.files import system_error, write_atomically, writing
from mho.ground.keeping import keeping
from mho.ground.offers import offers
from mho.ground.renames import Renamed
from mho.ground.tables import Table, Tabular, html_facts, html_table, json_text, table
