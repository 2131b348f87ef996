"""Mixture of experts on tiles: transformers 5 keeps the weights of all experts in two parameters of three dimensions."""

from typing import Any

import torch
from torch import Tensor, nn

from mho import AnalogLayer


class AnalogExperts(AnalogLayer):
    """The experts of Mixtral, Qwen-MoE, OLMoE and their kin, each on tiles of its own; the router stays digital.

    y_t = sum over the experts e that the router has chosen for token t of p_te D_e (act(G_e x_t) * U_e x_t), with
    [G_e; U_e] = gate_up_proj[e] and D_e = down_proj[e] on tiles. A token runs on the tiles of its experts only, and what an
    expert's chip is does not depend on what the router does. hidden_states [token, hidden], top_k_index and top_k_weights
    [token, k] -> [token, hidden]. It is recognised by its parameters, so that every model that has them is taken.
    """

    torch_type = nn.Module
    overridable = ()
    order = "leading"
    expected_failed_checks = {"never_waits_for_an_accelerator": "which tokens an expert has is known when the router has run"}
    _apply_gate: Any  # of the torch class: act(gate) * up
    gate_up_proj: Any
    down_proj: Any

    @classmethod
    def takes(cls, layer: nn.Module) -> bool:
        matrices = [getattr(layer, name, None) for name in ("gate_up_proj", "down_proj")]
        return all(isinstance(m, Tensor) and m.dim() == 3 for m in matrices) and hasattr(layer, "_apply_gate")

    @classmethod
    def refuses(cls, layer: Any) -> str | None:
        expected = {"has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True}
        other = [name for name, value in expected.items() if getattr(layer, name, value) != value]
        if other or getattr(layer, "has_post_expert_norm", False):
            return f"its experts are laid out otherwise ({', '.join(other) or 'norms behind them'})"
        return None

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        from transformers import MixtralConfig  # which need not be installed
        from transformers.models.mixtral.modeling_mixtral import MixtralExperts

        layer = MixtralExperts(MixtralConfig(hidden_size=6, intermediate_size=5, num_local_experts=3))
        for p in layer.parameters():
            nn.init.normal_(p, std=0.3)
        return layer, (torch.rand(4, 6), torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]]), torch.tensor([[0.7, 0.3]] * 4))

    def views(self) -> dict[str, Tensor]:
        names = ("gate_up", self.gate_up_proj), ("down", self.down_proj)
        return {f"{name}_{e}": matrices[e] for name, matrices in names for e in range(len(matrices))}

    def biased(self, key: str) -> bool:
        return False

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        out = torch.zeros_like(hidden_states)
        for e in top_k_index.unique().tolist():
            if e == len(self.down_proj):  # marks a token that no expert takes
                continue
            token, place = torch.where(top_k_index == e)
            y = self._apply_gate(self.tiles[f"gate_up_{e}"](hidden_states[token], self.gate_up_proj[e]))
            y = self.tiles[f"down_{e}"](y, self.down_proj[e]) * top_k_weights[token, place, None]
            out = out.index_add(0, token, y.to(out.dtype))
        return out
