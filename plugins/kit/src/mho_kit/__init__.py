"""Tests that plugin authors inherit: `class TestMyEffect(NonidealityContract): spec = MyEffect(...)`.

One module holds the contract of each kind of part, `checks` what they share, `bench` the tile on which parts are tried.
"""

from mho_kit.bench import Bench
from mho_kit.compensations import CompensationContract
from mho_kit.converters import ConverterContract
from mho_kit.effects import NonidealityContract
from mho_kit.layers import LayerContract
from mho_kit.mappings import MappingContract
from mho_kit.outcomes import CONTRACTS, Outcome, contract_of, run
from mho_kit.quantisers import QuantiserContract
from mho_kit.surrogates import SurrogateContract
from mho_kit.training import TrainingContract

__all__ = [
    "CONTRACTS",
    "Bench",
    "CompensationContract",
    "ConverterContract",
    "LayerContract",
    "MappingContract",
    "NonidealityContract",
    "Outcome",
    "QuantiserContract",
    "SurrogateContract",
    "TrainingContract",
    "contract_of",
    "run",
]
