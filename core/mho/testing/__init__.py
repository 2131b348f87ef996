"""Tests that plugin authors inherit: `class TestMyEffect(NonidealityContract): spec = MyEffect(...)`."""

from mho.testing.contract import NonidealityContract, Outcome, contract_of, run

__all__ = ["NonidealityContract", "Outcome", "contract_of", "run"]
