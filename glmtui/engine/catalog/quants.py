"""QUANTS: the quantised formats for weights, and the kernels for them that a setting can choose.

The packed form of such weights in memory is `glmtui.engine.nn.packed_weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Quant:
    """A quantised format for the weights of linear layers.

    Attributes:
        bits: 4 or 8.
        group: number of columns of a row that share a scale; None for one scale per row.
    """

    key: str
    bits: int
    group: int | None

    @property
    def bytes_per_weight(self) -> float:
        """Includes the float16 scale of each group, and at 4 bits its float16 minimum."""
        extra = 0.0 if self.group is None else (4 if self.bits == 4 else 2) / self.group
        return self.bits / 8 + extra


# 32 divides the width of every matrix of our families (576, 1536, 4096, 13696, 16384). Compared
# with groups of 64 and 128 it has the smallest error and perplexity, and decodes 4 to 6 % slower.
QUANTS: Mapping[str, Quant] = MappingProxyType(
    {
        quant.key: quant
        for quant in (
            Quant("int8", 8, None),
            Quant("int4", 4, 32),
        )
    }
)


# Kernels that multiply with packed weights on a GPU: the choices of the setting quant.kernel.
KERNELS = ("auto", "cpm_kernels")
# The file of a ChatGLM checkpoint that contains the GPU functions of cpm_kernels as base64. It is
# read as text and never executed.
CPM_FILE = "quantization.py"
MAX_CPM_BYTES = 1 << 20  # size limit of that file; the published files have 15 kB
