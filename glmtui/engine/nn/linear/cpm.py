"""The package `cpm_kernels`, as in ChatGLM's own code: GPU functions that unpack a weight.

The functions are machine code in the quantization.py of every ChatGLM checkpoint. That file is
never executed: the code is extracted from its text and used only if its hash is the published one.
It is for compute capabilities 6.1 to 8.6 and also runs on 8.9. It is not tested on such a GPU.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import ctypes
import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glmtui.engine.catalog.quants import CPM_FILE, MAX_CPM_BYTES
from glmtui.engine.nn.linear.kernel_selection import Kernel
from glmtui.engine.nn.linear.reference import LinearLayer
from glmtui.engine.nn.packed_weight import PackedWeight
from glmtui.errors import EngineError
from glmtui.language import N_, _

NAME = "cpm_kernels"
CODE_SHA256 = "8df6419ab47f313cbfb8127d7f7381fd6f65bcccea78bce167000ba4c92a1cf1"
MIN_CAPABILITY, MAX_CAPABILITY = (6, 1), (8, 9)
FUNCTIONS = {8: "int8WeightExtractionHalf", 4: "int4WeightExtractionHalf"}
FALLBACK_HINT = N_('Set quant.kernel to "auto" to use the fastest built-in kernel.')


def load_cpm_kernel(folder: Path, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The kernel for a model in `folder`.

    Raises:
        EngineError: it cannot be used here; the message has the reason.
    """
    check_device(device, dtype)
    code = read_machine_code(folder)
    try:
        from cpm_kernels.kernels.base import KernelFunction, LazyKernelCModule
    except ImportError as error:
        raise EngineError(
            _("quant.kernel is {name}, which cannot be imported: {error}").format(
                name=NAME, error=error
            ),
            _("Install it with: pip install 'glmtui[cpm]'.") + " " + _(FALLBACK_HINT),
        ) from error
    except Exception as error:  # the import loads the driver's libraries and may raise anything
        raise EngineError(
            _("{name} could not find the CUDA libraries: {error}").format(name=NAME, error=error),
            _(FALLBACK_HINT),
        ) from error
    module = LazyKernelCModule(code)
    functions = {bits: KernelFunction(module, name) for bits, name in FUNCTIONS.items()}

    def make(weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> CpmLinear:
        return CpmLinear(weight, bias, functions[weight.bits])

    return Kernel(NAME, cpm_supports, make)


def check_device(device: torch.device, dtype: torch.dtype) -> None:
    """Raises EngineError if `cpm_kernels` does not support the device or the dtype."""
    if device.type != "cuda":
        raise EngineError(
            _("{name} runs on an NVIDIA GPU, not on {device}.").format(name=NAME, device=device),
            _(FALLBACK_HINT),
        )
    if dtype != torch.float16:
        raise EngineError(
            _("{name} computes in float16, not in {dtype}.").format(
                name=NAME, dtype=str(dtype)[6:]
            ),
            _(FALLBACK_HINT),
        )
    capability = torch.cuda.get_device_capability(device)
    if not MIN_CAPABILITY <= capability <= MAX_CAPABILITY:
        raise EngineError(
            _(
                "{name} has machine code for compute capabilities 6.1 to 8.9; {device} has "
                "{capability}."
            ).format(name=NAME, device=device, capability=".".join(map(str, capability))),
            _(FALLBACK_HINT),
        )


def read_machine_code(folder: Path) -> bytes:
    """Extracts the published GPU functions from a checkpoint's quantization.py.

    Raises:
        EngineError: there is no such file, or it does not contain them.
    """
    path = folder / CPM_FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CPM_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise EngineError(
            _("{name} needs ChatGLM's {file}, which is not in {folder}.").format(
                name=NAME, file=CPM_FILE, folder=folder
            ),
            _(
                "Download the model again with glmtui pull, or copy the file from any ChatGLM "
                "model; it is never executed."
            )
            + " "
            + _(FALLBACK_HINT),
        ) from error
    for _quote, encoded in re.findall(r"(['\"])\$?(QlpoO[A-Za-z0-9+/=]+)\1", text):
        try:
            code = bz2.BZ2Decompressor().decompress(base64.b64decode(encoded), MAX_CPM_BYTES)
        except (binascii.Error, OSError, EOFError, ValueError):
            continue
        if hashlib.sha256(code).hexdigest() == CODE_SHA256:
            return code
    raise EngineError(
        _("{path} does not contain the published GPU functions.").format(path=path),
        _(FALLBACK_HINT),
    )


def cpm_supports(weight: PackedWeight, dtype: torch.dtype) -> bool:
    """Whether a weight is symmetric with one scale per row, and activations are in float16."""
    if dtype != torch.float16 or weight.group != weight.in_features:
        return False
    if weight.bits == 8:
        return weight.zero is None
    return weight.zero is not None and torch.equal(weight.zero, -8 * weight.scale)


class CpmLinear(LinearLayer):
    """x @ W.T + bias; ChatGLM's own function unpacks W to float16 at every call.

    Args:
        function: a `cpm_kernels` KernelFunction, called with grid, block, shared memory, stream and
            the arguments of the GPU function.
    """

    def __init__(self, weight: PackedWeight, bias: Tensor | None, function: Any) -> None:
        super().__init__()
        self.rows, self.columns = weight.shape
        self.bits = weight.bits
        self.q = weight.q if weight.bits == 8 else chatglm_nibbles(weight.q)
        self.scale = weight.scale[:, 0].half().contiguous()
        self.bias = bias
        self.nbytes = self.q.nbytes + self.scale.nbytes
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        unpacked = torch.empty(self.rows, self.columns, dtype=torch.float16, device=self.q.device)
        width = self.q.shape[1]
        with torch.cuda.device(unpacked.device):
            self._function(
                (self.rows, 1, 1),
                (min(-(-width // 32) * 32, 1024), 1, 1),
                0,
                torch.cuda.current_stream(),
                [
                    *(ctypes.c_void_p(t.data_ptr()) for t in (self.q, self.scale, unpacked)),
                    ctypes.c_int32(self.rows),
                    ctypes.c_int32(width),
                ],
            )
        return F.linear(x, unpacked, self.bias)


def chatglm_nibbles(q: Tensor) -> Tensor:
    """Converts `PackedWeight.q` to ChatGLM's format: int8, even columns high, two's complement."""
    return ((q >> 4 | q << 4) ^ 0x88).view(torch.int8)
