"""The compiled kernels as functions of contiguous CPU tensors.

Call them only if `library.available()`. They use as many threads as torch does. In a call with up
to FEW_TOKENS tokens, the result of a token is bit-identical whatever the other tokens are.
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

HALF_DTYPES = (torch.float16, torch.bfloat16)
MAX_HEAD_SIZE = 256  # elements; see attention_parts.h


def is_fastest_for(tokens: int) -> bool:
    """Whether the kernels are faster than torch's products for this many tokens at once."""
    if tokens <= FEW_TOKENS or product_dtype() == torch.float32:  # the kernels' own dtype
        return True
    return build_kernels().isa == "amx"


class NativeWeight:
    """A weight, [out, in], and its bias, which the kernels read in place.

    Args:
        weight: one that `supports_weight` accepts.
        bias: bfloat16 [out].
    """

    def __init__(self, weight: Tensor | PackedWeight, bias: Tensor | None) -> None:
        self.weight = weight = weight.contiguous()
        self.bias = bias
        self.shape = weight.shape
        rows, columns = weight.shape
        if isinstance(weight, PackedWeight):
            pointers = tuple(map(pointer, (weight.q, weight.scale, weight.zero, bias)))
            layout = (weight.group, weight.bits, False)
        else:
            pointers = (pointer(weight), None, None, pointer(bias))
            layout = (columns, 16, weight.dtype == torch.bfloat16)
        self.struct = CLinear(*pointers, rows, columns, *layout)
        self._address = ctypes.addressof(self.struct)

    def multiply(self, x: Tensor) -> Tensor:
        """x @ W.T + bias.

        Args:
            x: bfloat16 [..., in].

        Returns:
            bfloat16 [..., out].
        """
        assert x.dtype == torch.bfloat16, "the kernels read bfloat16"
        rows, columns = self.shape
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], rows)
        tokens, threads = x.numel() // columns, torch.get_num_threads()
        check_status(library().linear(y.data_ptr(), x.data_ptr(), self._address, tokens, threads))
        return y

    def unpack(self, dtype: torch.dtype, rows: slice = slice(None)) -> Tensor:
        """Rows of the weight, [rows, in], in `dtype`: float32 or bfloat16."""
        if isinstance(self.weight, Tensor):
            return self.weight[rows].to(dtype)
        first, last, _ = rows.indices(self.shape[0])
        unpacked = torch.empty(last - first, self.shape[1], dtype=dtype)
        threads, as_bf16 = torch.get_num_threads(), dtype == torch.bfloat16
        check_status(
            library().unpack(unpacked.data_ptr(), self._address, first, last, as_bf16, threads)
        )
        return unpacked


def supports_weight(weight: Tensor | PackedWeight) -> bool:
    """Whether the kernels can read a weight in this format; see linear.h."""
    columns = weight.shape[1]
    if isinstance(weight, Tensor):
        return weight.dtype in HALF_DTYPES and columns % 32 == 0
    readable = weight.scale.dtype == torch.float16 and weight.order is None
    return readable and columns % 64 == 0 and (weight.group == 32 or weight.group % 64 == 0)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one layer of `DecoderStep`; norms are float32 [hidden]."""

    attention_norm: Tensor
    qkv: NativeWeight
    out: NativeWeight
    mlp_norm: Tensor
    gate_up: NativeWeight
    down: NativeWeight


class DecoderStep:
    """A whole forward step of a pre-norm decoder in one call.

    Args:
        embedding: [vocab, hidden].
        norm: float32 [hidden], before the head.
        head_size: elements of one head; see `supports_head_size`.
        rotate_halves: rotary pairs are those of `layers.rotate_halves`, else of `rotate_pairs`.
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
        head_size: int,
        eps: float,
        rotate_halves: bool,
    ) -> None:
        self._weights = (embedding, layers, norm, head)  # keeps the memory behind the pointers
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
            head_size=head_size,
            eps=eps,
            rotate_halves=rotate_halves,
        )

    @staticmethod
    def supports_head_size(head_size: int) -> bool:
        return head_size % 32 == 0 and head_size <= MAX_HEAD_SIZE

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
        """Logits after each token, or after the last one.

        Args:
            ids: int64 [S], within the vocabulary.
            cos, sin: bfloat16 [S, head_size].
            keys, values: bfloat16 [1, kv heads, allocated tokens, head_size] of each layer, all of
                the same size. The step writes those of the S tokens.
            offset: tokens already in the cache.

        Returns:
            float32 [S or 1, vocab].
        """
        inputs = (cos, sin, keys[0], values[0])
        assert all(t.dtype == torch.bfloat16 for t in inputs), "the kernels read bfloat16"
        tokens, ids = ids.shape[0], ids.contiguous()
        logits = torch.empty(1 if last_only else tokens, self._vocab)
        allocated, threads = keys[0].shape[2], torch.get_num_threads()
        step = CStep(pointer(cos), pointer(sin), tokens, allocated, offset, threads)
        pointers = c_void_p * len(keys)
        check_status(
            library().decoder_step(
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
