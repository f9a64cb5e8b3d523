"""TemplateFormat: prompts made by the chat template of a model's folder."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glmtui.chat import Message
from glmtui.chat.turns import merge_turns, merge_turns_without_system
from glmtui.engine.tokenization.chat_template import TEMPLATE_FILE, read_chat_template
from glmtui.engine.tokenization.end_tokens import turn_end_ids, turn_part_ids
from glmtui.engine.tokenization.generation_config import eos_ids, read_generation_config
from glmtui.engine.tokenization.hf_tokenizer import HFTokenizer
from glmtui.engine.tokenization.template_renderer import TemplateRenderer
from glmtui.engine.tokenization.tokenizer_config import TokenizerConfig
from glmtui.errors import UnsupportedModel
from glmtui.language import _

PROBE_REPLY = "Hello."  # rendered once, to find the token that the template adds after a reply


class TemplateFormat:
    """The chat template of a folder, as an `api.ChatFormat`.

    The template writes special tokens as text. To distinguish these from the same characters in
    a message, `encode` puts an unused character into each special token that a message contains,
    finds the special tokens in the rendered prompt, and removes that character again.
    """

    def __init__(
        self,
        tokenizer: HFTokenizer,
        renderer: TemplateRenderer,
        stop_ids: frozenset[int],
        variables: dict[str, str],
    ) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = stop_ids
        self._variables = variables
        self._renderer = renderer
        longest_first = sorted(tokenizer.special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @classmethod
    def load(cls, tokenizer: HFTokenizer, folder: Path, raw: Mapping[str, Any]) -> TemplateFormat:
        """From tokenizer_config.json or chat_template.jinja.

        Args:
            raw: the folder's config.json.

        Raises:
            UnsupportedModel: there is no template, or it has a syntax error.
            BadCheckpoint: a file cannot be read.
        """
        template = read_chat_template(folder)
        if template is None:
            raise UnsupportedModel(
                _(
                    "{folder} has no chat template: it is a base model, or a chat model whose "
                    "files came without one."
                ).format(folder=folder),
                _(
                    "Save the model's published template as {path}, or use a -chat or -instruct "
                    "version that has one."
                ).format(path=folder / TEMPLATE_FILE),
            )
        renderer = TemplateRenderer(template)  # starts while the tokenizer is still loading
        variables = TokenizerConfig(folder).named_tokens
        generation = read_generation_config(folder)
        stop_ids = eos_ids(raw) | eos_ids(raw.get("text_config")) | eos_ids(generation)
        stop_ids |= turn_end_ids(tokenizer.end_tokens)
        stop_strings = generation.get("stop_strings")
        if not isinstance(stop_strings, list):
            stop_strings = [stop_strings]
        for name in (variables.get("eos_token"), *stop_strings):
            if isinstance(name, str) and name in tokenizer.special:
                stop_ids |= {tokenizer.special[name]}
        chat_format = cls(tokenizer, renderer, stop_ids, variables)
        chat_format.stop_ids |= chat_format._template_end_ids() - turn_part_ids(
            tokenizer.end_tokens
        )
        return chat_format

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Prompt ids. A last message of the assistant is left open, to be continued.

        If the template rejects the conversation, it is tried again with merged turns, and then
        without a system role. Raises UnsupportedModel with the first error.
        """
        try:
            return self._encode(messages)
        except UnsupportedModel:  # many templates require an order of roles
            for turns in (merge_turns(messages), merge_turns_without_system(messages)):
                if turns != tuple(messages):
                    with contextlib.suppress(UnsupportedModel):
                        return self._encode(turns)
            raise

    def _encode(self, messages: Sequence[Message]) -> list[int]:
        unused = _unused_character(messages)
        turns = [
            {
                "role": "tool" if m.role == "observation" else m.role,
                "content": self._break_special(m.content, unused),
            }
            for m in messages
        ]
        continues = bool(turns) and turns[-1]["role"] == "assistant"
        text = self._render(turns[:-1] if continues else turns, add_generation_prompt=True)
        if continues:
            text += turns[-1]["content"]
        parts, special, end, length = [], [], 0, 0
        for match in self._special.finditer(text):
            before = text[end : match.start()].replace(unused, "")
            start, end = length + len(before), match.end()
            length = start + len(match[0])
            parts += [before, match[0]]
            special.append((start, length, self.tokenizer.special[match[0]]))
        parts.append(text[end:].replace(unused, ""))
        return self.tokenizer.encode_prompt("".join(parts), special, has_typed=unused in text)

    def postprocess(self, text: str) -> str:
        return text

    def _render(self, turns: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        return self._renderer.render(
            {
                **self._variables,
                "messages": turns,
                "tools": None,  # templates test whether it is none, not whether it is defined
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
            }
        )

    def _template_end_ids(self) -> frozenset[int]:
        """The special token that the template writes after a reply; empty if there is none."""
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE_REPLY}]
        try:
            text = self._render(turns, add_generation_prompt=False)
        except UnsupportedModel:  # the error is reported for the first real conversation
            return frozenset()
        _before, found, after = text.rpartition(PROBE_REPLY)
        match = self._special.match(after.lstrip()) if found else None
        return frozenset({self.tokenizer.special[match[0]]} if match else ())

    def _break_special(self, content: str, unused: str) -> str:
        """Puts `unused` after the first character of each special token."""
        return self._special.sub(lambda match: match[0][:1] + unused + match[0][1:], content)


def _unused_character(messages: Sequence[Message]) -> str:
    """A private-use character that is in no message."""
    used = set().union(*(m.content for m in messages)) if messages else set()
    private = itertools.chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))
    return next(c for c in map(chr, private) if c not in used)
