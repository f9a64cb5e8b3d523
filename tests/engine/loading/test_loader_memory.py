"""How much memory loading takes at its peak, on a checkpoint whose layers are of real width.

It writes 1.7 GB, so it runs where GLMTUI_SLOW_TESTS is set. By hand, at full size:

    python -m tests.support.large_checkpoints /tmp/slim
    PYTHONPATH=tests python tests/engine/loading/test_loader_memory.py /tmp/slim int4
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.goldens import GOLDEN
from support.large_checkpoints import Shape, write_chatglm


def resident(when: str) -> int:
    """Bytes of this process in memory: now ("VmRSS") or at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(when)).split()[1]) * 1024


def measure(folder: str, quant: str) -> dict[str, float]:
    """Loads a model in this process; bytes that it takes and that were resident."""
    from glmtui.engine.loading.loader import load_model
    from glmtui.engine.model_info import LoadOptions

    before = resident("VmRSS")
    loaded = load_model(folder, LoadOptions(device="cpu", quant=quant))
    return {
        "model": loaded.info.weight_bytes or 0,
        "before": before,
        "peak": resident("VmHWM"),
        "seconds": loaded.info.load_seconds,
    }


@pytest.mark.skipif("GLMTUI_SLOW_TESTS" not in os.environ, reason="GLMTUI_SLOW_TESTS is not set")
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not tell")
@pytest.mark.parametrize("ends", ["safetensors", "bin"])
def test_memory_peaks_little_above_the_model(tmp_path: Path, ends: str) -> None:
    whole = write_chatglm(tmp_path, Shape(layers=4, vocab=8192), ends=ends, shard_bytes=2**29)
    assert whole > 1.6e9
    for quant in ("int4", "int8"):
        command = [sys.executable, __file__, str(tmp_path), quant]
        result = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert 0.4e9 < result["model"] < 0.9e9
        assert result["peak"] - result["before"] < 1.2 * result["model"] + 0.25e9


def test_loading_and_replying_leave_torchs_compiler_out() -> None:
    """It takes seconds and 0.1 GB, and some operations on the meta device import it."""
    code = """if True:
        import sys
        from glmtui.chat import SamplingParams
        from glmtui.engine.api import LoadOptions
        from glmtui.engine.loading.loader import load_model
        for folder in sys.argv[1:]:
            loaded = load_model(folder, LoadOptions(device="cpu"))
            marks = getattr(loaded.model.config, "marks", None)
            prompt = [70, 71, *((marks.gmask, marks.sop) if marks else ())]
            assert list(loaded.stream_ids(prompt, SamplingParams(max_new_tokens=3)).ids())
        print("torch._dynamo" in sys.modules)
    """
    folders = [str(GOLDEN / name) for name in ("v1_twin_orig", "v2_int4", "glm4_tiny")]
    command = [sys.executable, "-c", code, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
