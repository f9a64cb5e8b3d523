"""The README's pictures are what the app draws: made here, compared here.

``GLMTUI_PICTURES=1 pytest tests/test_pictures.py`` draws them anew.
"""

from __future__ import annotations

import html
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from app_desk import folders, running
from fake_engine import FakeEngine

from glmtui.config import Settings
from glmtui.engine import device
from glmtui.engine.api import ServerSpec
from glmtui.engine.device import Gpu, HostMemory, Snapshot

__all__ = ["folders"]

PICTURES = Path(__file__).parent / "pictures"
GB = 10**9
QUESTION = "为什么显存会随着对话增长？ Why does memory grow with the chat?"
REPLY = """\
Each layer keeps the **keys and values** of every token it has read, so that the next one costs \
a single step. For ChatGLM3-6B that is 28 kB a token:

| context | KV cache | weights, int4 |
|--------:|---------:|--------------:|
|     512 |    15 MB |        3.9 GB |
|   8,192 |   235 MB |        3.9 GB |

- The first release kept 32 key heads instead of 2: `458,752` bytes a token.
- 因此要限制历史轮数，或者使用 int8 / int4 量化。

```python
from glmtui.engine import load_model

model = load_model("THUDM/chatglm3-6b")
print(model.info.kv_bytes_per_token)
```
"""
SNAPSHOT = Snapshot(
    gpus=(
        Gpu(
            index=0,
            name="NVIDIA GeForce RTX 4090",
            total=24 * GB,
            used=int(6.2 * GB),
            used_by_us=int(4.4 * GB),
            free=int(17.8 * GB),
            utilisation=93,
            temperature=61,
        ),
    ),
    memory=HostMemory(64 * GB, 48 * GB, GB),
)


def words(svg: str) -> list[str]:
    """The texts of a picture, one a line of the screen."""
    return [html.unescape(text) for text in re.findall(r"<text [^>]*>([^<]*)</text>", svg)]


@pytest.mark.parametrize(("name", "size"), [("chat", (100, 25)), ("chat-80x24", (80, 24))])
async def test_the_readmes_picture_is_true(
    folders: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: tuple[int, int]
) -> None:
    monkeypatch.setattr(device, "snapshot", lambda: SNAPSHOT)

    def engine(fake: FakeEngine) -> None:
        fake.pieces = [REPLY]
        fake.model = replace(fake.model, name="THUDM/chatglm3-6b")

    target = ServerSpec("THUDM/chatglm3-6b")
    monkeypatch.setattr("glmtui.engine.catalog.resolve", lambda *args, **options: target)
    async with running(Settings(model="THUDM/chatglm3-6b"), size, engine=engine) as desk:
        await desk.ask(QUESTION)
        await desk.shows("kv_bytes_per_token")
        svg = desk.app.export_screenshot(title="glmtui")
    # fonts as the reader has them: the picture fetches nothing
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)
    path = PICTURES / f"{name}.svg"
    if os.environ.get("GLMTUI_PICTURES"):
        path.write_text(svg, "utf-8")
    assert words(path.read_text("utf-8")) == words(svg)
