"""What Hugging Face folders bring along: tokenizer.json, a chat template, sampling defaults.

Used by every family whose folders have them. Text of messages can never become a special token.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from glmtui.chat import Message, SamplingParams
from glmtui.chat.turns import joined_turns, strict_turns
from glmtui.engine.catalog.model_folder import (
    MAX_VOCABULARY_BYTES,
    read_json_object,
    read_model_file,
)
from glmtui.engine.tokenization.bounded_tokenizer import BoundedTokenizer
from glmtui.engine.tokenization.chat_template import TEMPLATE_FILE, read_chat_template
from glmtui.engine.tokenization.end_tokens import end_ids, inside_turns
from glmtui.engine.tokenization.template_renderer import TemplateRenderer
from glmtui.errors import BadCheckpoint, UnsupportedModel
from glmtui.language import _

MAX_TOKENIZER_BYTES = 64 << 20  # Gemma 3's, of 262,144 tokens, has 33 MB
NAMED_TOKENS = tuple(f"{name}_token" for name in ["bos", "eos", "unk", "sep", "pad", "cls", "mask"])
TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
MOST_NUMBER = 2**31  # of a sampling parameter
LEAST_TEMPERATURE = 1e-5  # logits divided by less are no numbers in float32; vLLM's limit too
LEAST_PENALTY, MOST_PENALTY = 0.01, 100.0
REPLY = "Hello."  # to see what a template puts behind one

logger = logging.getLogger(__name__)


class TokenizerJson:
    """A ``tokenizer.json`` read by the `tokenizers` library, as an `api.Tokenizer`."""

    def __init__(self, bounded: BoundedTokenizer) -> None:
        self._bounded = bounded

    @cached_property
    def special(self) -> dict[str, int]:
        """Special tokens and their ids. Raises BadCheckpoint, if nobody has waited before."""
        special: dict[str, int] = self._bounded.facts["special"]
        return special

    @cached_property
    def added(self) -> dict[str, int]:
        """Special tokens and others that end a turn by their name, and their ids."""
        return {**self._bounded.facts["ends"], **self.special}

    @cached_property
    def strips_leading_space(self) -> bool:
        return bool(self._bounded.facts["strips_leading_space"])

    @classmethod
    def load(cls, folder: Path, *, wait: bool = True) -> TokenizerJson | None:
        """The folder's tokenizer; None where it has no tokenizer.json.

        Args:
            wait: for the file to be read; else what needs it first does.

        Raises:
            BadCheckpoint: it is no tokenizer, or takes too much time or memory to load.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            return None
        settings = read_json(folder / "tokenizer_config.json")
        tokenizer = cls.of(
            lambda: read_model_file(path, MAX_TOKENIZER_BYTES),
            path,
            added=_added_tokens(folder, settings),
            named=sorted(set(_named_tokens(folder, settings).values())),
        )
        if wait:
            tokenizer._bounded.wait()
        return tokenizer

    @classmethod
    def of(cls, read: Callable[[], bytes], path: Path, **options: Any) -> TokenizerJson:
        """The tokenizer whose bytes `read` returns; `path` is for messages. Does not wait."""

        def refused(error: str) -> BadCheckpoint:
            return BadCheckpoint(
                _("{path} is not a tokenizer: {error}").format(path=path, error=error),
                _("Fetch the model again with: glmtui pull"),
            )

        return cls(BoundedTokenizer("tokenizers", read, refused, **options))

    @classmethod
    def load_pieces(cls, folder: Path) -> TokenizerJson | None:
        """The same of a SentencePiece file, tokenizer.model; None where there is none.

        Raises:
            BadCheckpoint: as `load` does.
        """
        path = folder / "tokenizer.model"
        if not path.is_file():
            return None
        settings = read_json(folder / "tokenizer_config.json")

        def refused(error: str) -> BadCheckpoint:
            return BadCheckpoint(
                _("{path} is not a tokenizer: {error}").format(path=path, error=error),
                _("Put the tokenizer.json of the same model beside it; that is read first."),
            )

        bounded = BoundedTokenizer(
            "piece_model",
            lambda: read_model_file(path, MAX_VOCABULARY_BYTES),
            refused,
            added=_added_tokens(folder, settings),
            legacy=settings.get("legacy") is True,
        )
        bounded.wait()
        return cls(bounded)

    def encode(self, text: str) -> list[int]:
        """Raises EngineError where the tokenizer's rules do not come to an end with it."""
        return self.encode_each([text])[0]

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text by itself. Raises like `encode`."""
        return self._bounded.encode_each(texts)

    def encode_prompt(
        self, text: str, special: Sequence[tuple[int, int, int]], *, typed: bool
    ) -> list[int]:
        """The ids of a text that holds special tokens, as transformers gives them.

        Args:
            special: start, end and id of each special token; what is spelled like one anywhere
                else stays text.
            typed: whether there is such a place.

        Raises:
            EngineError: as `encode` does.
        """
        return self._bounded.encode_prompt(text, special, typed=typed)

    def decode(self, ids: Sequence[int]) -> str:
        """Raises EngineError where the tokenizer's rules do not come to an end with it."""
        return self._bounded.decode(ids)

    def token_bytes(self, token_id: int) -> bytes:
        return self._bounded.token_bytes(token_id)


class TemplateFormat:
    """The folder's own chat template, as a `api.ChatFormat`.

    The template writes special tokens as text. To tell those from the same characters in a
    message, a mark that occurs nowhere else is put into every special token a message spells; the
    rendered prompt is cut at the special tokens that are left, and the marks are taken out again.
    """

    def __init__(
        self,
        tokenizer: TokenizerJson,
        template: TemplateRenderer,
        stop_ids: frozenset[int],
        variables: dict[str, str],
    ) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self._variables = variables
        self._template = template
        specials = sorted(tokenizer.special, key=len, reverse=True)
        self._cut = re.compile("|".join(map(re.escape, specials)) or r"(?!)")

    @classmethod
    def load(cls, tokenizer: TokenizerJson, folder: Path, raw: Mapping[str, Any]) -> TemplateFormat:
        """From tokenizer_config.json or chat_template.jinja; UnsupportedModel without one."""
        settings = read_json(folder / "tokenizer_config.json")
        template = read_chat_template(folder)
        if template is None:
            raise UnsupportedModel(
                _(
                    "{folder} has no chat template: it is a base model, or a chat model whose "
                    "files came without one."
                ).format(folder=folder),
                _(
                    "Put the template that the model was published with into {path}, or take a "
                    "-chat or -instruct version that has one."
                ).format(path=folder / TEMPLATE_FILE),
            )
        program = TemplateRenderer(template)  # it starts while the tokenizer is still loading
        variables = _named_tokens(folder, settings)
        generation = read_json(folder / "generation_config.json")
        ends = _end_ids(raw) | _end_ids(raw.get("text_config")) | generation_ends(folder)
        ends |= end_ids(tokenizer.added)
        said = generation.get("stop_strings")
        for name in (variables.get("eos_token"), *(said if isinstance(said, list) else [said])):
            if isinstance(name, str) and name in tokenizer.special:
                ends |= {tokenizer.special[name]}
        made = cls(tokenizer, program, ends, variables)
        made.stop_ids |= made._turn_end() - inside_turns(tokenizer.added)
        return made

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Prompt ids. A last message of the assistant's is left open, for the reply to go on.

        A conversation that the template refuses is given to it once more with its turns joined,
        and then without a system role. Raises UnsupportedModel with the first of the refusals.
        """
        try:
            return self._encode(messages)
        except UnsupportedModel:  # many templates insist on an order of roles
            for turns in (joined_turns(messages), strict_turns(messages)):
                if turns != tuple(messages):
                    with contextlib.suppress(UnsupportedModel):
                        return self._encode(turns)
            raise

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        mark = _unused_character(messages)
        turns = [
            {
                "role": "tool" if m.role == "observation" else m.role,
                "content": self._marked(m, mark),
            }
            for m in messages
        ]
        going_on = bool(turns) and turns[-1]["role"] == "assistant"
        text = self._rendered(turns[:-1] if going_on else turns, add_generation_prompt=True)
        if going_on:
            text += turns[-1]["content"]
        parts, places, end, length = [], [], 0, 0
        for hit in self._cut.finditer(text):
            before = text[end : hit.start()].replace(mark, "")
            start, end = length + len(before), hit.end()
            length = start + len(hit[0])
            parts += [before, hit[0]]
            places.append((start, length, self.tokenizer.special[hit[0]]))
        parts.append(text[end:].replace(mark, ""))
        return self.tokenizer.encode_prompt("".join(parts), places, typed=mark in text)

    def postprocess(self, text: str) -> str:
        return text

    def _rendered(self, turns: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        return self._template.render(
            {
                **self._variables,
                "messages": turns,
                "tools": None,  # templates ask whether it is none, not whether it is defined
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
        )

    def _turn_end(self) -> frozenset[int]:
        """The special token that the template puts behind a reply; none where it puts none."""
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": REPLY}]
        try:
            text = self._rendered(turns, add_generation_prompt=False)
        except UnsupportedModel:  # a conversation that it does refuse is told of later
            return frozenset()
        _before, found, behind = text.rpartition(REPLY)
        hit = self._cut.match(behind.lstrip()) if found else None
        return frozenset({self.tokenizer.special[hit[0]]} if hit else ())

    def _marked(self, message: Message, mark: str) -> str:
        return self._cut.sub(lambda hit: hit.group()[:1] + mark + hit.group()[1:], message.content)


def _named_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """What templates know as bos_token and so on; in old folders a file of its own has them."""
    found = {}
    for source in (read_json(folder / "special_tokens_map.json"), settings):
        for key in NAMED_TOKENS:
            value = source.get(key)
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str) and value:
                found[key] = value
    return found


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Tokens that were added to a SentencePiece file, by id, as AddedToken has them."""
    special = set(_named_tokens(folder, settings).values())
    found: dict[int, dict[str, Any]] = {}
    for text, token_id in read_json(folder / "added_tokens.json").items():
        if isinstance(token_id, int):
            found[token_id] = {"content": text, "special": text in special}
    decoder = settings.get("added_tokens_decoder")
    for key, said in decoder.items() if isinstance(decoder, dict) else ():
        content = said.get("content") if isinstance(said, dict) else None
        if isinstance(content, str) and key.isdecimal() and len(key) < 9:
            flags = {flag: said.get(flag) is True for flag in TOKEN_FLAGS}
            flags["special"] |= content in special
            found[int(key)] = {"content": content, **flags}
    return found


def generation_ends(folder: Path) -> frozenset[int]:
    """Ids that end a reply, as a folder's generation_config.json says. Raises BadCheckpoint."""
    return _end_ids(read_json(folder / "generation_config.json"))


def _end_ids(source: object) -> frozenset[int]:
    """The eos_token_id of a config, one or several."""
    eos = source.get("eos_token_id") if isinstance(source, dict) else None
    ids = eos if isinstance(eos, list) else [eos]
    return frozenset(i for i in ids if isinstance(i, int) and not isinstance(i, bool))


def hub_defaults(folder: Path) -> SamplingParams:
    """The sampling parameters a folder's generation_config.json recommends.

    Values out of range are taken as they are elsewhere, or left out with a warning: a temperature
    of 0 or less is greedy (llama.cpp), a top_k of 0 or -1 is none (vLLM).
    """
    path = folder / "generation_config.json"
    known: dict[str, Any] = {}
    for name, value in read_json(path).items():
        if name not in SAMPLING or value is None:
            continue
        taken = SAMPLING[name](value)
        if taken is None:
            logger.warning("%s: %s is %.40r, which is left out", path, name, value)
        else:
            known[name] = taken
    return SamplingParams(**known)


def _number(value: object) -> float | None:
    """The value where it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if abs(value) < MOST_NUMBER else None  # NaN is not


def _temperature(value: object) -> float | None:
    number = _number(value)
    return None if number is None else 0 if number < LEAST_TEMPERATURE else number


def _top_k(value: object) -> int | None:
    number = _number(value)
    return None if number is None or number != int(number) else max(int(number), 0)


def _top_p(value: object) -> float | None:
    number = _number(value)
    return None if number is None or number < 0 else min(number, 1)


def _penalty(value: object) -> float | None:
    number = _number(value)
    return None if number is None or not LEAST_PENALTY <= number <= MOST_PENALTY else number


SAMPLING: Mapping[str, Callable[[object], float | None]] = {
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _top_p,
    "repetition_penalty": _penalty,
    "do_sample": lambda value: value if isinstance(value, bool) else None,
}


def refuse_packed(raw: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel where config.json says that weights are packed by another program."""
    packing = raw.get("quantization_config")
    if packing:
        method = packing.get("quant_method") if isinstance(packing, dict) else packing
        raise UnsupportedModel(
            _("The checkpoint is quantised by {method}, which is not read.").format(method=method),
            _("Take the model it was made of, and set load.quant to int8 or int4."),
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no file. Raises BadCheckpoint."""
    if not path.is_file():
        return {}
    return read_json_object(path)


def _unused_character(messages: Sequence[Message]) -> str:
    """A private character of Unicode that no message has; nobody has read all of them."""
    used = set().union(*(m.content for m in messages)) if messages else set()
    private = itertools.chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))
    return next(c for c in map(chr, private) if c not in used)
