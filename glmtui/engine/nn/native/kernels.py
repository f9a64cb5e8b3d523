"""The compiled kernels as functions of tensors, which are contiguous and on a CPU.

Callers ask `available` first. Of up to FEW_TOKENS tokens a token's result is the same to the last
bit, whatever is computed beside it. As many threads work as torch would use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from glmtui.engine.nn.cpu_dtype import product_dtype
from glmtui.engine.nn.native.build import FEW_TOKENS, build_kernels
from glmtui.engine.nn.native.library import (
    CDecoder,
    CLayer,
    CLinear,
    CStep,
    check_status,
    library,
    pointer,
)
from glmtui.engine.nn.packed_weight import PackedWeight

HALVES = (torch.float16, torch.bfloat16)
LARGEST_HEAD = 256  # see attention.h


def is_fastest_for(tokens: int) -> bool:
    """Whether the kernels are the fastest there is for so many tokens at once."""
    if tokens <= FEW_TOKENS or product_dtype() == torch.float32:  # as the kernels multiply
        return True
    return build_kernels().isa == "amx"


class NativeWeight:
    """A weight, [out, in], and its bias as the kernels read them, in the memory they lie in.

    Args:
        weight: one that `supports_weight` is true for.
        bias: bfloat16 [out].
    """

    def __init__(self, weight: Tensor | PackedWeight, bias: Tensor | None) -> None:
        self.weight = weight = weight.contiguous()
        self.bias = bias
        self.shape = weight.shape
        rows, columns = weight.shape
        if isinstance(weight, PackedWeight):
            pointers = (
                pointer(weight.q),
                pointer(weight.scale),
                pointer(weight.zero),
                pointer(bias),
            )
            kind = (weight.group, weight.bits, False)
        else:
            pointers = (pointer(weight), None, None, pointer(bias))
            kind = (columns, 16, weight.dtype == torch.bfloat16)
        self.struct = CLinear(*pointers, rows, columns, *kind)
        self._address = ctypes.addressof(self.struct)

    def multiply(self, x: Tensor) -> Tensor:
        """x @ W.T + bias.

        Args:
            x: bfloat16 [..., in].

        Returns:
            bfloat16 [..., out].
        """
        assert x.dtype == torch.bfloat16, "the kernels would read other numbers"
        rows, columns = self.shape
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], rows)
        tokens, threads = x.numel() // columns, torch.get_num_threads()
        check_status(library().linear(y.data_ptr(), x.data_ptr(), self._address, tokens, threads))
        return y

    def whole(self, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
        """Rows of the weight, unpacked, in float32 or bfloat16."""
        if isinstance(self.weight, Tensor):
            return self.weight[rows].to(dtype)
        first, last, _ = rows.indices(self.shape[0])
        whole = torch.empty(last - first, self.shape[1], dtype=dtype)
        threads, as_bf16 = torch.get_num_threads(), dtype == torch.bfloat16
        check_status(
            library().unpack(whole.data_ptr(), self._address, first, last, as_bf16, threads)
        )
        return whole


def supports_weight(weight: Tensor | PackedWeight) -> bool:
    """Whether the kernels know how a weight is packed."""
    columns = weight.shape[1]
    if isinstance(weight, Tensor):
        return weight.dtype in HALVES and columns % 32 == 0
    halves = weight.scale.dtype == torch.float16 and weight.order is None
    return halves and columns % 64 == 0 and (weight.group == 32 or weight.group % 64 == 0)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Of one layer of `DecoderStep`. Norms are float32 [hidden]."""

    attention_norm: Tensor
    qkv: NativeWeight
    out: NativeWeight
    mlp_norm: Tensor
    gate_up: NativeWeight
    down: NativeWeight


class DecoderStep:
    """A whole step of a pre-norm decoder in one call.

    Args:
        embedding: [vocab, hidden].
        norm: float32 [hidden], before the head.
        heads, kv_heads, size: of the attention; `supports_head_size` the size of a head.
        halves: whether heads turn as in `layers.rotate_halves`, else as in `rotate_pairs`.
    """

    def __init__(
        self,
        embedding: NativeWeight,
        layers: Sequence[LayerWeights],
        norm: Tensor,
        head: NativeWeight,
        *,
        heads: int,
        kv_heads: int,
        size: int,
        eps: float,
        halves: bool,
    ) -> None:
        self._held = (embedding, layers, norm, head)
        self._vocab = head.shape[0]
        self._layers = (CLayer * len(layers))(
            *(
                CLayer(
                    pointer(layer.attention_norm),
                    pointer(layer.mlp_norm),
                    *(w.struct for w in (layer.qkv, layer.out, layer.gate_up, layer.down)),
                )
                for layer in layers
            )
        )
        self._struct = CDecoder(
            layers=ctypes.addressof(self._layers),
            norm=pointer(norm),
            embedding=embedding.struct,
            head=head.struct,
            depth=len(layers),
            hidden=norm.shape[0],
            inner=layers[0].down.shape[1],
            heads=heads,
            kv_heads=kv_heads,
            size=size,
            eps=eps,
            halves=halves,
        )

    @staticmethod
    def supports_head_size(head_size: int) -> bool:
        return head_size % 32 == 0 and head_size <= LARGEST_HEAD

    def __call__(
        self,
        ids: Tensor,
        cos: Tensor,
        sin: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        offset: int,
        *,
        last_only: bool,
    ) -> Tensor:
        """Logits after each token, or after the last.

        Args:
            ids: int64 [S], of the vocabulary.
            cos, sin: bfloat16 [S, size].
            keys, values: bfloat16 [1, kv heads, room, size] of each layer, all with the same room,
                of which `offset` tokens are filled; those of the S tokens are written.

        Returns:
            float32 [S or 1, vocab].
        """
        numbers = (cos, sin, keys[0], values[0])
        assert all(t.dtype == torch.bfloat16 for t in numbers), "the kernels would read others"
        tokens, ids = ids.shape[0], ids.contiguous()
        logits = torch.empty(1 if last_only else tokens, self._vocab)
        room, threads = keys[0].shape[2], torch.get_num_threads()
        step = CStep(pointer(cos), pointer(sin), tokens, room, offset, threads)
        pointers = c_void_p * len(keys)
        check_status(
            library().prenorm_step(
                logits.data_ptr(),
                ids.data_ptr(),
                ctypes.addressof(self._struct),
                ctypes.addressof(step),
                pointers(*map(pointer, keys)),
                pointers(*map(pointer, values)),
                last_only,
            )
        )
        return logits
