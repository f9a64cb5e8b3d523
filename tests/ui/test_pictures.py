"""The README's pictures are compared with what the app draws.

``GLMTUI_PICTURES=1 pytest tests/ui/test_pictures.py`` makes them again.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from glmtui.chat import GenerationStats
from glmtui.config import Settings
from glmtui.engine.hardware import machine
from glmtui.engine.hardware.gpu import Gpu
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.model_info import ServerSpec
from glmtui.language import set_language
from support import TESTS
from support.app_pilot import folders, run_app
from support.fake_engine import FakeEngine

__all__ = ["folders"]

PICTURES = TESTS / "goldens" / "pictures"
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
SPEEDS = [  # prompt, reply, tokens per second, reused
    (31, 214, 61.2, 0),
    (276, 214, 58.4, 245),
    (521, 214, 60.9, 490),
    (766, 214, 57.7, 735),
    (1011, 214, 59.3, 980),
]
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


PICTURED: dict[str, tuple[tuple[int, int], Settings, str, tuple[str, ...]]] = {
    # name: size, settings, what is to be seen at the end, keys pressed for it
    "chat": ((100, 25), Settings(), "kv_bytes_per_token", ()),
    "chat-80x24": ((80, 24), Settings(), "kv_bytes_per_token", ()),
    "settings": ((100, 30), Settings(theme="paper"), "creative", ("f2",)),
    "details-80x24": ((80, 24), Settings(), "KV cache now", ("f3",)),
    "chinese-80x24": ((80, 24), Settings(language="zh", theme="paper"), "/export", ("/", "e")),
}


@pytest.fixture(autouse=True)
def _english_again() -> Iterator[None]:
    yield
    set_language("en")


@pytest.mark.parametrize("name", PICTURED)
async def test_the_readme_picture_equals_the_app(
    folders: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    size, settings, seen, keys = PICTURED[name]
    monkeypatch.setattr(machine, "snapshot", lambda: SNAPSHOT)
    monkeypatch.setattr("glmtui.ui.dialogs.model_picker.snapshot", lambda: SNAPSHOT)

    def engine(fake: FakeEngine) -> None:
        fake.pieces = [REPLY]
        fake.model = replace(
            fake.model,
            name="THUDM/chatglm3-6b",
            device="cuda:0",
            quant="int4",
            context_length=8192,
            weight_bytes=int(3.9 * GB),
            kv_bytes_per_token=28_672,
        )

    target = ServerSpec("THUDM/chatglm3-6b")
    monkeypatch.setattr("glmtui.engine.catalog.resolver.resolve", lambda *args, **options: target)
    set_language(settings.language)
    settings = replace(settings, model="THUDM/chatglm3-6b")
    async with run_app(settings, size, engine=engine) as driver:
        for n, (prompt, reply, rate, reused) in enumerate(SPEEDS):
            driver.engine.stats = GenerationStats(
                prompt, reused, reply, 0.21, reply / rate, 0.23, int((4.3 + n / 20) * GB)
            )
            await driver.ask(QUESTION)
        await driver.pilot.press(*keys)
        await driver.wait_for_text(seen)
        svg = driver.app.export_screenshot(title="glmtui")
    # fonts as the reader has them: the picture fetches nothing
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)
    path = PICTURES / f"{name}.svg"
    if os.environ.get("GLMTUI_PICTURES"):
        path.write_text(svg, "utf-8")
    assert words(path.read_text("utf-8")) == words(svg)


def test_every_picture_exists_and_is_in_the_readme() -> None:
    readme = (TESTS.parent / "README.md").read_text("utf-8")
    assert {path.stem for path in PICTURES.iterdir()} == set(PICTURED)
    assert all(f"tests/goldens/pictures/{name}.svg" in readme for name in PICTURED)
    assert len(PICTURED) <= 8
