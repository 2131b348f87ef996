"""Phase-change memory (PCM): programming noise, drift, read noise and stuck cells."""

from mho import Nonideality, hookimpl
from mho_pcm.afm import AfmProgrammingNoise
from mho_pcm.hermes import HermesDrift, HermesLongTermReadNoise, HermesProgrammingNoise
from mho_pcm.rasch import Drift, LongTermReadNoise, PcmStuckAt, ProgrammingNoise, ReadNoise


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    standard = (ProgrammingNoise, Drift, LongTermReadNoise, ReadNoise, PcmStuckAt)
    return [*standard, HermesProgrammingNoise, HermesDrift, HermesLongTermReadNoise, AfmProgrammingNoise]
