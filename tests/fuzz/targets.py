"""The fuzz targets: each passes untrusted bytes to the function that reads them.

A target may raise GlmtuiError, which `meet` takes for an answer; all else is a fault. Knows nothing
of who makes the bytes: `run.py` has a fuzzer for it, `test_targets.py` the seeds and a few changes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import get_args

import hub_answers
import model_configs
import server_answers
from fuzz_folder import desk, put

from glmtui import config
from glmtui.chat import Conversation, Message
from glmtui.config import example
from glmtui.engine.catalog.model_folder import inspect_folder
from glmtui.engine.checkpoint.checkpoint import Checkpoint
from glmtui.engine.checkpoint.gguf import convert_gguf
from glmtui.engine.checkpoint.gguf.file import read_gguf
from glmtui.engine.checkpoint.gguf.tokenizer import build_tokenizer
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.errors import GlmtuiError, ToolError
from glmtui.store import FileFormat, dumps, loads
from glmtui.store.conversation_format import peek
from glmtui.store.exchange.import_export import import_text
from glmtui.store.journal import apply_journal, dumps_journal
from glmtui.tools import tools_toml

FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)


@dataclass(frozen=True, slots=True)
class Target:
    """A function that reads untrusted bytes.

    Attributes:
        take: reads the bytes.
        seeds: valid inputs to begin with, by name.
        words: dictionary of the fuzzer.
        changes: number of mutations of each seed that a test tries.
    """

    take: Callable[[bytes], object]
    seeds: Callable[[], Mapping[str, bytes]]
    words: tuple[bytes, ...] = ()
    changes: int = 60


def meet(target: Target, data: bytes) -> GlmtuiError | None:
    """Run the target; the error for the user, if any. Other exceptions, which are bugs, pass."""
    try:
        target.take(data)
    except GlmtuiError as error:
        return error
    return None


# ---- conversations and settings


TALK = Conversation.new().add(Message("user", "hi")).add(Message("assistant", "he"))


def take_conversation(data: bytes) -> None:
    """The first byte selects the format. What can be read must be the same after a round trip."""
    file_format = FORMATS[data[0] % len(FORMATS)] if data else FORMATS[0]
    text = data[1:].decode("utf-8", "ignore")
    for door in (peek, import_text):
        try:
            door(text, file_format)
        except GlmtuiError:
            continue
    talk = loads(text, file_format)
    for again in FORMATS:
        assert loads(dumps(talk, again), again).path == talk.path


def conversations() -> dict[str, bytes]:
    talk = Conversation.new(model="m", system="be '''brief'''").add(Message("user", "a\n[x]\x7f"))
    talk = talk.add(Message("assistant", 'say """hi"""', finish_reason="stop", model="m"))
    branched = talk.edit(talk.messages[0].id, "b")
    texts = {
        f"{name}.{file_format}": bytes([n]) + dumps(kept, file_format).encode()
        for n, file_format in enumerate(FORMATS)
        for name, kept in {"plain": talk, "branched": replace(branched, title="t")}.items()
    }
    openai = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    return texts | {"openai.json": b"\1" + json.dumps({"messages": openai}).encode()}


def take_journal(data: bytes) -> None:
    """A journal next to its own file and next to another; any tree can be walked."""
    for digest in (b"", b"?"):
        with suppress(GlmtuiError):
            talk, whole = apply_journal(TALK, data.decode("utf-8", "ignore"), digest)
            assert whole <= len(TALK.messages)
            for message in talk.messages:
                assert talk.switch(message.id).path
    apply_journal(TALK, data.decode("utf-8", "ignore"), b"")


def journals() -> dict[str, bytes]:
    added = TALK.add(Message("user", "more")).add(Message("assistant", "and more"))
    return {
        "added": dumps_journal(added, 2, b"").encode(),
        "longer": dumps_journal(added, 1, b"").encode(),
        "all": dumps_journal(added, 0, b"x").encode(),
    }


def take_settings(data: bytes) -> None:
    config.load_settings(put("config.toml", data), {})


def settings() -> dict[str, bytes]:
    lines = [line.removeprefix("# ") for line in example.example_toml().splitlines()]
    entries = "\n".join(line for line in lines if " = " in line or line.startswith("["))
    return {
        "example": example.example_toml().encode(),
        "all": entries.encode(),
        "wrong": b'a = """\n\n"""\nb = [1,\n2]\n[servers.x]\nurl = 1\n[sampling]\ntop_p = "x"\n',
    }


def take_tools(data: bytes) -> None:
    """tools.toml and, after a NUL, the arguments for a call of each of its tools."""
    text, _, call = data.partition(b"\0")
    tools, _ = tools_toml.load_tools(put("tools.toml", text))
    try:
        arguments = json.loads(call)
    except (ValueError, RecursionError):
        arguments = None
    for tool in tools:
        json.dumps(tool.declaration)
        with suppress(ToolError):
            made = tool.invocation(arguments if isinstance(arguments, dict) else None)
            assert made.argv[0] == tool.command[0]
            assert len(made.argv) <= len(tool.command)
            assert made.display_text.isprintable()


def declared_tools() -> dict[str, bytes]:
    tool = (
        b'enabled = true\n[tools.t]\ndescription = "d"\n'
        b'command = ["run", "-x", "a {city}", "{n}"]\n'
        b"timeout = 5\n[tools.t.parameters.city]\n"
        b'description = "c"\n[tools.t.parameters.n]\ndescription = "n"\ntype = "integer"\n'
        b"optional = true\n"
    )
    return {
        "called": tool + b'\0{"city": "\xe5\xb7\xb4\xe9\xbb\x8e", "n": 3}',
        "dash": tool + b'\0{"city": "-rf"}',
        "uncalled": tool,
    }


# ---- models


def take_gguf(data: bytes) -> None:
    path, folder = put("model.gguf", data), desk() / "converted"
    folder.mkdir(exist_ok=True)
    with suppress(GlmtuiError):  # `convert_gguf` reads it late
        build_tokenizer(read_gguf(path))
    convert_gguf(path, folder)


def ggufs() -> dict[str, bytes]:
    from gguf import GGMLQuantizationType, GGUFWriter

    from support.tiny_llama import write_gguf

    def sentencepiece(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁a", "b", "ab"]
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1])
        writer.add_unk_token_id(0)

    whole = write_gguf(desk() / "seed.gguf", GGMLQuantizationType.Q4_0).read_bytes()
    pieces = write_gguf(desk() / "seed.gguf", tensors={}, tokenizer=sentencepiece).read_bytes()
    return {
        "bytes": whole,
        "pieces": pieces,
        "header": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
    }


def take_safetensors(data: bytes) -> None:
    checkpoint = Checkpoint(put("single/model.safetensors", data).parent, {})
    for name in checkpoint.names:
        checkpoint.read_weight(name)


def safetensors() -> dict[str, bytes]:
    from support.tiny_llama import llama_files

    header = b'{"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}'
    small = struct.pack("<Q", len(header)) + header + bytes(8)
    return {"small": small, "llama": llama_files()["model.safetensors"][:4000]}


def take_index(data: bytes) -> None:
    folder = put("sharded/model.safetensors.index.json", data).parent
    put("sharded/part.safetensors", safetensors()["small"])  # a name without meaning
    put("sharded/config.json", b'{"model_type":"llama","max_position_embeddings":9}')
    inspect_folder(folder)
    Checkpoint(folder, {})


def indexes() -> dict[str, bytes]:
    shard = "part.safetensors"
    return {
        "sound": json.dumps({"metadata": {}, "weight_map": {"a": shard}}).encode(),
        "away": json.dumps({"weight_map": {"a": "../" + shard, "b": "/" + shard}}).encode(),
    }


def take_config(data: bytes) -> None:
    folder = put("plain/config.json", data).parent
    put("plain/model.safetensors", safetensors()["small"])
    inspect_folder(folder)


def configs() -> dict[str, bytes]:
    from support.tiny_llama import LLAMA_CONFIG

    chatglm = {"model_type": "chatglm", "padded_vocab_size": 65024, "seq_length": 8192}
    return {
        "llama": json.dumps(LLAMA_CONFIG).encode(),
        "chatglm": json.dumps(chatglm | {"_name_or_path": "THUDM/chatglm3-6b"}).encode(),
        "glm4": json.dumps(chatglm | {"eos_token_id": [1, 2], "quantization_bit": 4}).encode(),
    }


def take_tokenizer(data: bytes) -> None:
    """The library reads it in a process of its own."""
    tokenizer = HFTokenizer.load(put("tokenizer/tokenizer.json", data).parent)
    assert tokenizer is not None
    ids = tokenizer.encode("Hi, ab 你好 <|end|> 12")
    assert tokenizer.encode_each(["", "Hi, ab 你好 <|end|> 12"]) == [tokenizer.encode(""), ids]
    tokenizer.decode(ids)
    for token_id in (*ids, -1, 1 << 31):
        tokenizer.token_bytes(token_id)


def tokenizers() -> dict[str, bytes]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = {c: n for n, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    byte_level = Tokenizer(models.BPE(letters | {"ab": 256}, [("a", "b")]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens([AddedToken("<|end|>", special=True)])
    byte_level.enable_truncation(3)
    byte_level.enable_padding(length=40, pad_to_multiple_of=8)
    fallback = {f"<0x{byte:02X}>": byte for byte in range(256)}
    pieces = {"▁": 256, "a": 257, "b": 258, "ab": 259, "<unk>": 260}
    spelled = Tokenizer(
        models.BPE(fallback | pieces, [("a", "b")], unk_token="<unk>", byte_fallback=True)
    )
    spelled.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁"), normalizers.NFKC()]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    spelled.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    scores = [("<unk>", 0.0), ("▁", -1.0), ("a", -2.0), ("ab", -3.0)]
    unigram = Tokenizer(models.Unigram(scores, 0, False))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "ab": 1, "##b": 2}, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made = {"bytes": byte_level, "spelled": spelled, "unigram": unigram, "words": words}
    return {name: fast.to_str().encode() for name, fast in made.items()}


TARGETS: dict[str, Target] = {
    "conversation": Target(
        take_conversation,
        conversations,
        (b"\n[[messages]]\n", b"content = ", b"'''", b'"""', b"parent", b"head", b"finish_reason"),
    ),
    "journal": Target(take_journal, journals, (b'"parent": "m4"', b'"id": "m1"', b'"head": []')),
    "tools": Target(
        take_tools, declared_tools, (b"{city}", b"\\n", b"\\u202e", b"--", b"true", b"choices = []")
    ),
    "settings": Target(take_settings, settings, (b"[servers.", b"url = ", b'"""', b"inf", b"nan")),
    "gguf": Target(take_gguf, ggufs, (b"tokenizer.ggml.tokens", b"general.alignment")),
    "safetensors": Target(take_safetensors, safetensors, (b"data_offsets", b"shape", b"I4", b"F8")),
    "index": Target(take_index, indexes, (b"weight_map", b"../", b"\\u0000")),
    "tokenizer": Target(
        take_tokenizer,
        tokenizers,
        (
            b'"padding":{"strategy":{"Fixed":200000000},"direction":"Right","pad_id":0,'
            b'"pad_type_id":0,"pad_token":"","pad_to_multiple_of":1000000000000}',
            b'"normalizer":{"type":"Replace","pattern":{"Regex":"(a+)+$"},"content":"aa"}',
            b'{"type":"Precompiled","precompiled_charsmap":"AAAA"}',
            b'"continuing_subword_prefix":"##"',
            b'"dropout":1.0',
            b"4294967295",
            b"\\u0000",
        ),
        changes=12,  # each starts a process
    ),
    "config": Target(take_config, configs, (b"model_type", b"text_config", b"quantization_config")),
    "server stream": Target(
        server_answers.take_stream,
        server_answers.streams,
        (b"data: ", b"event: error\n", b"\n\n", b"[DONE]", b"\\ud83d", b"finish_reason", b"null"),
    ),
    "server refusal": Target(
        server_answers.take_error,
        server_answers.errors,
        (b"unsupported", b"stream", b"top_k", b"error"),
    ),
    "hub": Target(
        hub_answers.take_description,
        hub_answers.descriptions,
        (b"../", b"\\u0000", b"siblings", b"rfilename", b"sha256", b"-1", b"1e999", b"null"),
    ),
    "hub response": Target(
        hub_answers.take_response,
        hub_answers.responses,
        (b"Location: ", b"http://", b"Content-Encoding: ", b"Transfer-Encoding: chunked", b"\r\n"),
    ),
    "model": Target(
        model_configs.take_model,
        model_configs.models,
        (b"1e400", b"NaN", b"null", b"[]", b"{}", b"-1", b"0", b"10000000"),
    ),
}
