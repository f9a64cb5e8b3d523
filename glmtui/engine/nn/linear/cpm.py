"""`cpm_kernels`, as ChatGLM's own code uses it: GPU functions unpack a weight for every product.

The package launches; the functions themselves are machine code that every ChatGLM checkpoint brings
in its quantization.py. That file is never run: the code is read out of it as text and taken only if
it is, byte for byte, the one published. It holds compute capabilities 6.1 to 8.6 and runs on 8.9.
Not run by its authors for want of such a GPU; `choice` proves it on the device that is to use it.
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

from glmtui.engine.catalog.registry import CPM_FILE, MAX_CPM_BYTES
from glmtui.engine.nn.linear.kernel_selection import Kernel
from glmtui.engine.nn.linear.reference import LinearLayer
from glmtui.engine.nn.packed_weight import PackedWeight
from glmtui.errors import EngineError
from glmtui.language import N_, _

NAME = "cpm_kernels"
CODE_SHA256 = "8df6419ab47f313cbfb8127d7f7381fd6f65bcccea78bce167000ba4c92a1cf1"
LEAST_CAPABILITY, MOST_CAPABILITY = (6, 1), (8, 9)
FUNCTIONS = {8: "int8WeightExtractionHalf", 4: "int4WeightExtractionHalf"}
ELSE = N_('Set quant.kernel to "auto"; glmtui picks the fastest of its own.')


def load_cpm_kernel(folder: Path, device: torch.device, dtype: torch.dtype) -> Kernel:
    """The kernel, for a model in `folder` on this device.

    Raises:
        EngineError: why it cannot be had here.
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
            _("Install it with: pip install 'glmtui[cpm]'.") + " " + _(ELSE),
        ) from error
    except Exception as error:  # it looks for the driver's libraries as it is imported
        raise EngineError(
            _("{name} finds no CUDA libraries: {error}").format(name=NAME, error=error), _(ELSE)
        ) from error
    module = LazyKernelCModule(code)
    functions = {bits: KernelFunction(module, name) for bits, name in FUNCTIONS.items()}

    def make(weight: PackedWeight, bias: Tensor | None, dtype: torch.dtype) -> CpmLinear:
        return CpmLinear(weight, bias, functions[weight.bits])

    return Kernel(NAME, cpm_supports, make)


def check_device(device: torch.device, dtype: torch.dtype) -> None:
    """Raises EngineError where `cpm_kernels` has nothing to run, with the reason."""
    if device.type != "cuda":
        raise EngineError(
            _("{name} runs on an NVIDIA GPU, not on {device}.").format(name=NAME, device=device),
            _(ELSE),
        )
    if dtype != torch.float16:
        said = str(dtype).removeprefix("torch.")
        raise EngineError(
            _("{name} computes in float16, not in {dtype}.").format(name=NAME, dtype=said), _(ELSE)
        )
    capability = torch.cuda.get_device_capability(device)
    if not LEAST_CAPABILITY <= capability <= MOST_CAPABILITY:
        raise EngineError(
            _(
                "{name} has machine code for compute capabilities 6.1 to 8.9; {device} has "
                "{capability}."
            ).format(name=NAME, device=device, capability=".".join(map(str, capability))),
            _(ELSE),
        )


def read_machine_code(folder: Path) -> bytes:
    """The published GPU functions, out of a checkpoint's quantization.py. Raises EngineError."""
    path = folder / CPM_FILE
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CPM_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise EngineError(
            _(
                "The GPU functions that {name} launches are in ChatGLM's {file}, which {folder} "
                "does not have."
            ).format(name=NAME, file=CPM_FILE, folder=folder),
            _(
                "Fetch the model again with glmtui pull, or put the file of any ChatGLM model "
                "there; it is not run."
            )
            + " "
            + _(ELSE),
        ) from error
    for _quote, coded in re.findall(r"(['\"])\$?(QlpoO[A-Za-z0-9+/=]+)\1", text):
        try:
            code = bz2.BZ2Decompressor().decompress(base64.b64decode(coded), MAX_CPM_BYTES)
        except (binascii.Error, OSError, EOFError, ValueError):
            continue
        if hashlib.sha256(code).hexdigest() == CODE_SHA256:
            return code
    raise EngineError(
        _("{path} does not hold the GPU functions that were published.").format(path=path), _(ELSE)
    )


def cpm_supports(weight: PackedWeight, dtype: torch.dtype) -> bool:
    """Symmetric, a scale per row, activations in float16."""
    if dtype != torch.float16 or weight.group != weight.in_features:
        return False
    if weight.bits == 8:
        return weight.zero is None
    return weight.zero is not None and torch.equal(weight.zero, -8 * weight.scale)


class CpmLinear(LinearLayer):
    """x @ W.T + bias, W unpacked to float16 by ChatGLM's own function at every call.

    Args:
        function: called with grid, block, shared memory, stream and the parameters' addresses.
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
        whole = torch.empty(self.rows, self.columns, dtype=torch.float16, device=self.q.device)
        width = self.q.shape[1]
        with torch.cuda.device(whole.device):
            self._function(
                (self.rows, 1, 1),
                (min(-(-width // 32) * 32, 1024), 1, 1),
                0,
                torch.cuda.current_stream(),
                [
                    *(ctypes.c_void_p(t.data_ptr()) for t in (self.q, self.scale, whole)),
                    ctypes.c_int32(self.rows),
                    ctypes.c_int32(width),
                ],
            )
        return F.linear(x, whole, self.bias)


def chatglm_nibbles(q: Tensor) -> Tensor:
    """Our packing of 4 bits in ChatGLM's: the even column high, two's complement, int8."""
    return ((q >> 4 | q << 4) ^ 0x88).view(torch.int8)
