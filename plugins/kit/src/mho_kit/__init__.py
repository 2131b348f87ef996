"""Tests that plugin authors inherit: `class TestMyEffect(NonidealityContract): spec = MyEffect(...)`."""

from mho_kit.compensations import CompensationContract
from mho_kit.contract import NonidealityContract, Outcome, contract_of, run
from mho_kit.converters import ConverterContract
from mho_kit.hooks import TrainingContract
from mho_kit.layers import LayerContract
from mho_kit.mappings import MappingContract
from mho_kit.surrogates import SurrogateContract

__all__ = [
    "CompensationContract",
    "ConverterContract",
    "LayerContract",
    "MappingContract",
    "NonidealityContract",
    "Outcome",
    "SurrogateContract",
    "TrainingContract",
    "contract_of",
    "run",
]
