"""A toy decoder that predicts id n + 1 after id n, with a tokenizer and a chat format."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from glmtui.chat import Message
from glmtui.engine.model_info import LoadedInfo
from glmtui.engine.nn.decoder import Decoder
from glmtui.engine.nn.kv_cache import KVCache
from glmtui.engine.runtime.model_runner import LoadedModel

VOCAB = 300
STOP = 256
CPU = torch.device("cpu")


class CountingDecoder(Decoder):
    """Predicts the next greater id. Keys in the cache are the ids themselves.

    Attributes:
        fed: the ids of every call.
        fail_at: an id at which a call fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab=VOCAB)
        self.fed: list[list[int]] = []
        self.fail_at: int | None = None

    def prepare(self, length: int, dtype: torch.dtype, device: torch.device) -> None:
        pass

    def new_cache(
        self, capacity: int, dtype: torch.dtype, device: torch.device, batch: int = 1
    ) -> KVCache:
        return KVCache(1, 1, 1, capacity, dtype=dtype, device=device)

    def forward(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        last_only: bool = False,
        padding: Tensor | None = None,
    ) -> Tensor:
        fed = ids[0].tolist()
        self.fed.append(fed)
        if self.fail_at in fed:
            raise RuntimeError("cuda error: an illegal something\nwith a second line")
        seen = fed
        if cache is not None:
            keys, _ = cache.update(0, ids.float()[:, None, :, None], ids.float()[:, None, :, None])
            cache.advance(len(fed))
            seen = keys.flatten().int().tolist()
        assert seen[-len(fed) :] == fed
        logits = torch.zeros(1, len(fed), VOCAB)
        for i, token in enumerate(fed):
            logits[0, i, (token + 1) % VOCAB] = 10.0
        return logits[:, -1:] if last_only else logits


class ByteTokenizer:
    """Ids are the bytes of the text."""

    strips_leading_space = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


class InitialsFormat:
    """Each message is the first letter of its role, then its content."""

    stop_ids = frozenset([STOP])

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return [b for m in messages for b in f"{m.role[0]}{m.content}".encode()]

    def postprocess(self, text: str) -> str:
        return text.strip()


def toy_model(context_length: int = 64) -> LoadedModel:
    """A LoadedModel that counts upwards from the last byte of the prompt."""
    info = LoadedInfo(name="toy", device="cpu", context_length=context_length)
    return LoadedModel(
        CountingDecoder(),
        ByteTokenizer(),
        InitialsFormat(),
        InitialsFormat.stop_ids,
        info,
        dtype=torch.float32,
        device=CPU,
    )
