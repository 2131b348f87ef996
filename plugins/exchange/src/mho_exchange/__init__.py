"""Ways in and out of mho: tables of chips, measured devices, SPICE netlists, exported models, other tools.

mho.exchange.write_chip(net, "chip.csv")                    every device of the chip that is on
mho.exchange.measured_chip(net, "measured.csv", "chip")     conductances from a laboratory as a chip
mho.exchange.netlist(array, x)                              one tile as a SPICE circuit
mho.exchange.quantised(net)                                 a torch model with the converters, for torch.export and ONNX
mho.exchange.load_aihwkit(net, state)                       weights, input ranges and scales of another tool
mho.exchange.translated(config)                             its configuration as YAML, and what has no counterpart
"""

from mho import Nonideality, hookimpl
from mho.ground import offers

__getattr__, __all__ = offers(__name__, __file__)


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    from mho_exchange.devicemap import DeviceMap

    return [DeviceMap]
