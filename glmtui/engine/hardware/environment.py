"""Environment variables that libraries read once, when they are first imported."""

from __future__ import annotations

import os


def prepare_environment() -> None:
    """Sets defaults for OpenMP, CUDA and tokenizers; call it before torch is imported.

    OpenMP threads that wait for each other spin by default, which costs whole scheduler slices
    when another program wants a core. A shorter spin costs nothing on an idle machine; on a busy
    one `runtime.autotune` adapts the number of threads.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order of NVML
    # We tokenize one text at a time, which has nothing to run in parallel.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
