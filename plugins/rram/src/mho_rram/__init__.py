"""Resistive memory (RRAM) for mho: programming noise, relaxation, device variability, stuck cells.

Conductances in µS, x = g/g_max. Laws are fits at a reference g_max; those in x scale with the g_max in use.
"""

from mho import Nonideality, hookimpl
from mho_rram.curve import Curve
from mho_rram.programming import ProgrammingNoise
from mho_rram.relaxation import Relaxation
from mho_rram.stuck import RramStuckAt
from mho_rram.telegraph import TelegraphNoise
from mho_rram.variability import Variability


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [ProgrammingNoise, Relaxation, Variability, TelegraphNoise, RramStuckAt, Curve]
