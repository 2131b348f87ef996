"""Phase-change memory (PCM): programming noise, drift, read noise and stuck cells."""

from __future__ import annotations

from mho import Nonideality, hookimpl
from mho_pcm.afm import AfmProgrammingNoise
from mho_pcm.hermes import HermesDrift, HermesLongTermReadNoise, HermesProgrammingNoise
from mho_pcm.rasch import Drift, LongTermReadNoise, PcmStuckAt, ProgrammingNoise, ReadNoise


@hookimpl
def mho_nonidealities() -> list[type[Nonideality]]:
    return [
        ProgrammingNoise,
        Drift,
        LongTermReadNoise,
        ReadNoise,
        PcmStuckAt,
        HermesProgrammingNoise,
        HermesDrift,
        HermesLongTermReadNoise,
        AfmProgrammingNoise,
    ]
