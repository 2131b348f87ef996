"""The ways in and out: `__init__.py` reads the names here and imports each on first use."""

from mho_exchange.aihwkit import load_aihwkit as load_aihwkit
from mho_exchange.configs import Translation as Translation, translated as translated
from mho_exchange.devicemap import DeviceMap as DeviceMap
from mho_exchange.measured import chip_table as chip_table, measured_chip as measured_chip, write_chip as write_chip
from mho_exchange.exported import export_onnx as export_onnx, quantised as quantised
from mho_exchange.spice import netlist as netlist, solved as solved
from mho_exchange.tables import read_table as read_table, write_table as write_table
