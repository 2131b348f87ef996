"""Circuit effects around the devices: wire resistance, noise, nonlinearity and polarity.

Analog units: one row fully on (x = 1) through one weight at g_max (w = 1) gives y = 1.
"""

from mho import Nonideality, hookimpl
from mho.effects import Converter, Mapping
from mho_circuit.cells import CellCurve, ThermalNoise
from mho_circuit.converters import ColumnAdc, CyclicAdc, RampAdc, SarAdc, TableAdc
from mho_circuit.encoding import SerialDac
from mho_circuit.ir_drop import IRDrop
from mho_circuit.ladder import IRDropLadder
from mho_circuit.nodal import IRDropNodal
from mho_circuit.output import AdcSCurve, CurrentLimit, OutputNoise
from mho_circuit.polarity import PolarityAsymmetry, TwoPhase
from mho_circuit.programming import GradientDescent, ProgrammingError, WriteVerify
from mho_circuit.slices import Digits, EqualShares, MaxFill, Residual


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    wires = (IRDrop, IRDropLadder, IRDropNodal)
    reads = (AdcSCurve, OutputNoise, CurrentLimit, CellCurve, ThermalNoise, PolarityAsymmetry, TwoPhase)
    return [*wires, *reads, ProgrammingError, WriteVerify, GradientDescent]


@hookimpl
def mho_mappings() -> list[type[Mapping]]:
    return [EqualShares, MaxFill, Residual, Digits]


@hookimpl
def mho_converters() -> list[type[Converter]]:
    return [SerialDac, ColumnAdc, SarAdc, RampAdc, CyclicAdc, TableAdc]
