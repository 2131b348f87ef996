"""Analog attention: the projections are on tiles; products of activations with activations stay digital."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mho.ground import MhoError
from mho.layers.base import COMPUTED, AnalogLayer
from mho.layers.linear import AnalogLinear
from mho.tile import tile_arrays

if TYPE_CHECKING:
    from mho.config import Hardware


class AnalogMultiheadAttention(AnalogLayer, nn.MultiheadAttention):
    """`nn.MultiheadAttention` with its query, key and value projections on a tile array each, though torch may keep them
    in one parameter: softmax(q k^T / sqrt(head_dim) + mask) v with q, k and v from the tiles, the rest digital. `out_proj`
    is a Linear layer of its own, converted like any other.

    query, key, value [position, batch, embed_dim], [batch, position, embed_dim] or [position, embed_dim], and what torch
    returns for them. Raises `MhoError` for nested tensors.
    """

    torch_type = nn.MultiheadAttention
    order = "samples"

    def place_by_hand(self, hw: Hardware, tile: str | None) -> None:
        self._modules["out_proj"] = AnalogLinear.from_torch(self.out_proj, hw.tile(tile or hw.default), hw.training, "out_proj")
        super().place_by_hand(hw, tile)
        order_projections(self)

    @classmethod
    def example(cls) -> tuple[nn.Module, tuple[Any, ...]]:
        return nn.MultiheadAttention(8, 2), tuple(torch.rand(3, 6, 8) for _ in range(3))

    def views(self) -> dict[str, Tensor]:
        if not self._qkv_same_embed_dim:
            return {"q": self.q_proj_weight, "k": self.k_proj_weight, "v": self.v_proj_weight}
        size = self.embed_dim  # slices, since views that `split` makes together cannot be changed in place
        return {n: self.in_proj_weight[i * size : (i + 1) * size] for i, n in enumerate("qkv")}

    @classmethod
    def refuses(cls, layer: Any) -> str | None:
        apart = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        names = ("in_proj_weight",) if layer._qkv_same_embed_dim else apart
        return None if all(isinstance(getattr(layer, n, None), nn.Parameter) for n in names) else COMPUTED

    def biased(self, key: str) -> bool:
        return self.in_proj_bias is not None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.is_nested or key.is_nested or value.is_nested:
            raise MhoError("analog attention takes padded tensors and a key_padding_mask, not nested tensors")
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is only a hint: pass attn_mask too, as nn.MultiheadAttention asks")
        single = query.dim() == 2
        q, k, v = (
            self._project(n, x.unsqueeze(0) if single else x if self.batch_first else x.transpose(0, 1))
            for n, x in zip("qkv", (query, key, value))
        )
        if key_padding_mask is not None and single:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        mask = self._mask(attn_mask, key_padding_mask, q)
        k, v = self._with_extra(k, self.bias_k), self._with_extra(v, self.bias_v)
        if mask is not None:  # nothing masks what was appended
            mask = F.pad(mask, (0, k.shape[1] - mask.shape[-1]))
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))  # [batch, head, position, dim]
        p, weights = self.dropout if self.training else 0.0, None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.mT
            weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), p)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, p)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if single:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _project(self, name: str, x: Tensor) -> Tensor:
        """x [batch, position, in] -> [batch, position, embed_dim]."""
        y: Tensor = self.tiles[name](x, self.views()[name])
        if self.in_proj_bias is None:
            return y
        return y + self.in_proj_bias.split(self.embed_dim)["qkv".index(name)]

    def _mask(self, attn: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as one to add, [batch or 1, head or 1, target or 1, source]."""
        if attn is not None:
            attn = attn[None, None] if attn.dim() == 2 else attn.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            padding = padding[:, None, None, :]
        masks = [_additive(m, like) for m in (attn, padding) if m is not None]
        return None if not masks else masks[0] if len(masks) == 1 else masks[0] + masks[1]

    def _with_extra(self, t: Tensor, learned: Tensor | None) -> Tensor:
        """Keys or values t [batch, position, dim], with the learned one (`add_bias_kv`) and zeros (`add_zero_attn`) behind
        them."""
        t = t if learned is None else torch.cat([t, learned.expand(len(t), -1, -1)], 1)
        return F.pad(t, (0, 0, 0, 1)) if self.add_zero_attn else t


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """True means "do not look" in boolean masks; others are added to the scores as they are."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def order_projections(net: nn.Module) -> None:
    """The output projection of an attention is given [batch, position, embed_dim], whatever the network is given."""
    for module in net.modules():
        if isinstance(module, AnalogMultiheadAttention) and isinstance(module.out_proj, AnalogLayer):
            module.out_proj.tiles.order = module.order


# Torch's fused transformer inference: (module, the attribute that allows it and serves nothing else, its value for "off").
FAST_PATHS = ((nn.TransformerEncoderLayer, "activation_relu_or_gelu", 0), (nn.TransformerEncoder, "use_nested_tensor", False))


def close_fast_paths(net: nn.Module) -> None:
    """Keep torch's fused transformer inference off, which reads weights directly and so would silently go round the tiles;
    what it returns for padded positions stays."""
    for module in net.modules():
        for kind, switch, off in FAST_PATHS:
            if isinstance(module, kind) and hasattr(module, switch) and tile_arrays(module):
                before, hook = getattr(module, switch), None
                setattr(module, switch, off)
                if before and isinstance(module, nn.TransformerEncoder):
                    hook = module.register_forward_hook(_without_padding, with_kwargs=True).id
                module.__dict__["fast_path_of_torch"] = before, hook


def open_fast_paths(net: nn.Module) -> None:
    """Undo `close_fast_paths`, on a copy too (where the handle of a hook would be that of the original)."""
    for module in net.modules():
        before, hook = module.__dict__.pop("fast_path_of_torch", (None, None))
        for kind, switch, _ in FAST_PATHS:
            if before is not None and isinstance(module, kind):
                setattr(module, switch, before)
        module._forward_hooks.pop(hook, None)
        module._forward_hooks_with_kwargs.pop(hook, None)


def _without_padding(encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
    """The outputs y [batch, position, dim] of an encoder as torch's nested tensors give them: zeros (behind the last norm)
    at padded positions. Like torch, only in evaluation without gradients, outside of compiled graphs, and where the
    positions in use come first."""
    given = {**dict(zip(("src", "mask", "src_key_padding_mask"), args)), **kwargs}
    padding = given.get("src_key_padding_mask")
    if padding is None or given.get("mask") is not None or y.dim() != 3 or encoder.layers[0].training:
        return y
    if torch.is_grad_enabled() or torch.is_autocast_enabled() or torch.compiler.is_compiling():
        return y
    padded = padding if padding.dtype == torch.bool else padding < 0
    if (padded[:, :-1] & ~padded[:, 1:]).any():
        return y
    zero = torch.zeros_like(y[:1, :1])
    return torch.where(padded[..., None], zero if encoder.norm is None else encoder.norm(zero), y)
