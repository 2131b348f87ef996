"""Ways in and out of mho: tables of chips, measured devices, SPICE netlists, exported models, other tools.

mho.exchange.write_chip(net, "chip.csv")                    every device of the chip that is on
mho.exchange.measured_chip(net, "measured.csv", "chip")     conductances from a laboratory as a chip
mho.exchange.netlist(array, x)                              one tile as a SPICE circuit
mho.exchange.quantised(net)                                 a torch model with the converters, for torch.export and ONNX
mho.exchange.load_aihwkit(net, state)                       weights, input ranges and scales of another tool
mho.exchange.translated(config)                             its configuration as YAML, and what has no counterpart
"""

from mho import Nonideality, hookimpl
from mho_exchange.aihwkit import load_aihwkit
from mho_exchange.configs import Translation, translated
from mho_exchange.devicemap import DeviceMap
from mho_exchange.measured import chip_table, measured_chip, write_chip
from mho_exchange.quantised import export_onnx, quantised
from mho_exchange.spice import netlist, solved
from mho_exchange.tables import read_table, write_table

__all__ = [
    "DeviceMap", "Translation", "chip_table", "export_onnx", "load_aihwkit", "measured_chip", "netlist", "quantised",
    "read_table", "solved", "translated", "write_chip", "write_table",
]  # fmt: skip


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [DeviceMap]
