"""Tests that plugin authors inherit: `class TestMyEffect(NonidealityContract): spec = MyEffect(...)`."""

from mho.testing.compensations import CompensationContract
from mho.testing.contract import NonidealityContract, Outcome, contract_of, run
from mho.testing.converters import ConverterContract
from mho.testing.hooks import TrainingContract
from mho.testing.layers import LayerContract
from mho.testing.mappings import MappingContract
from mho.testing.surrogates import SurrogateContract

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
