"""Analog attention: the projections are on tiles; products of activations with activations stay digital (R003-26)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mho.fast.backend import make_fast
from mho.ground.errors import MhoError
from mho.layers.base import COMPUTED, AnalogLayer

if TYPE_CHECKING:
    from mho.config.hardware import Hardware


class AnalogMultiheadAttention(AnalogLayer, nn.MultiheadAttention):
    """`nn.MultiheadAttention` with its query, key and value projections on a tile array each, though torch may keep them
    in one parameter. `out_proj` is a Linear layer of its own, converted like any other."""

    torch_type = nn.MultiheadAttention
    order = "samples"

    def __init__(self, *args: Any, hw: Hardware, tile: str | None = None, **kwargs: Any) -> None:
        from mho.layers.linear import AnalogLinear

        nn.MultiheadAttention.__init__(self, *args, **kwargs)
        spec = hw.tile(tile or hw.default)
        out = AnalogLinear.from_torch(self.out_proj, spec, hw.training, "out_proj")
        self._modules["out_proj"] = out
        self._place_by_hand(hw, tile)
        make_fast(out.tiles, hw.precision, hw.compile)
        out.tiles.session = self.arrays()["q"].session
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
        names = (
            ("in_proj_weight",) if layer._qkv_same_embed_dim else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        )
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
        k, v, mask = self._with_extra(k, v, mask)
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        y, weights = self._attend(q, k, v, mask, need_weights)
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
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

    def _with_extra(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append the learned key and value (`add_bias_kv`) and the zeros (`add_zero_attn`); nothing masks them."""
        extra = []
        if self.bias_k is not None and self.bias_v is not None:
            extra.append((self.bias_k.expand(len(k), -1, -1), self.bias_v.expand(len(k), -1, -1)))
        if self.add_zero_attn:
            extra.append((torch.zeros_like(k[:, :1]), torch.zeros_like(v[:, :1])))
        if not extra:
            return k, v, mask
        k, v = torch.cat([k, *(a for a, _ in extra)], 1), torch.cat([v, *(b for _, b in extra)], 1)
        return k, v, None if mask is None else F.pad(mask, (0, len(extra)))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """q, k, v [batch, head, position, dim] -> mixed values, and the attention weights if asked for."""
        p = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, p), None
        scores = (q * self.head_dim**-0.5) @ k.mT
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), p)
        return weights @ v, weights


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


def close_fast_paths(net: nn.Module) -> None:
    """Keep torch's fused transformer inference off: it reads weights directly, which would silently go round the tiles.

    The layers take it only where `activation_relu_or_gelu` is set, the encoder only with `use_nested_tensor`; neither
    is used for anything else.
    """
    from mho.tile.array import tile_arrays

    switches = (
        (nn.TransformerEncoderLayer, "activation_relu_or_gelu", 0),
        (nn.TransformerEncoder, "use_nested_tensor", False),
    )
    for module in net.modules():
        for kind, switch, off in switches:
            if isinstance(module, kind) and hasattr(module, switch) and tile_arrays(module):
                module.__dict__.setdefault("_fast_path_of_torch", getattr(module, switch))
                setattr(module, switch, off)


def open_fast_paths(net: nn.Module) -> None:
    """Undo `close_fast_paths`."""
    for module in net.modules():
        before = module.__dict__.pop("_fast_path_of_torch", None)
        switch = "use_nested_tensor" if isinstance(module, nn.TransformerEncoder) else "activation_relu_or_gelu"
        if before is not None:
            setattr(module, switch, before)
