"""Check on a device without values: what would make an accelerator wait."""

from typing import Any

import torch

from mho_kit.bench import Bench, skip
from mho_kit.checks.base import Checks
from mho_kit.far import Specimen, answer_for


class DeviceChecks(Checks):
    """On `mho_kit.far`, which every machine has."""

    def specimen(self) -> Specimen:
        """A converted network of single precision with the part under test, and its inputs."""
        bench = Bench(self.tile, torch.float32)
        return self.made(bench), (bench.x,)

    def test_never_waits_for_an_accelerator(self) -> None:
        """A network with it is calibrated, trained, programmed and aged."""
        part: Any = getattr(self, "spec", None) or getattr(self, "layer", None)
        found = answer_for(part, self.tile)
        if found.skipped:
            skip(found.skipped)
        assert not found.problem, (
            f"on an accelerator {found.problem}; make tensors from others (torch.zeros_like(g), g.new_full), choose with "
            "torch.where"
        )
