"""What a server or the way to it did wrong, in words for the user, with what to do about it.

Knows statuses, exceptions of httpx and of the sockets below it. The API key is masked in whatever
a server says, and its words are shortened and made safe to show.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glmtui.engine.server.chat_completions import refusal_text
from glmtui.errors import ServerError
from glmtui.language import _
from glmtui.sanitize import one_line

MAX_QUOTE = 300

_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|prompt is too long|too many tokens|reduce the length",
    re.IGNORECASE | re.DOTALL,
)
_CONTINUING = re.compile(
    r"assistant|prefill|prefix|last (message|role)|final_message|generation_prompt", re.IGNORECASE
)
_KEY_HINT = "Put the key into an environment variable and name it as key_env in [servers.NAME]."
LOG_HINT = "The server's own log says more."


class Refused(ServerError):
    """A server's answer that is no reply.

    Attributes:
        status: of HTTP, or the one an error inside the answer tells.
        words: what the server says, in full length; only for looking things up in it.
    """

    def __init__(self, message: str, hint: str, status: int, words: str) -> None:
        super().__init__(message, hint)
        self.status = status
        self.words = words

    @property
    def bad_request(self) -> bool:
        """Whether something in the request itself was not to the server's liking."""
        return self.status in (400, 413, 422)

    @property
    def too_long(self) -> bool:
        """Whether the conversation does not fit into the model's context."""
        return self.bad_request and bool(_TOO_LONG.search(self.words))

    @property
    def about_continuing(self) -> bool:
        """Whether the server minds that the last message is the assistant's."""
        return self.bad_request and bool(_CONTINUING.search(self.words))


@dataclass(frozen=True, slots=True)
class Blame:
    """Whom an error is about.

    Attributes:
        address: the server's, as it may be shown.
        model: asked for; empty before one is chosen.
        key: never shown; masked where a server repeats it.
        models: what the server says it has; empty where it did not say.
    """

    address: str
    model: str = ""
    key: str = ""
    models: Sequence[str] = ()

    def mask(self, words: str) -> str:
        """`words` without the key."""
        return words.replace(self.key, "[the API key]") if self.key else words

    def quote(self, words: str) -> str:
        """A server's words on one line, short, without the key."""
        text = one_line(self.mask(words))
        return text if len(text) <= MAX_QUOTE else text[: MAX_QUOTE - 1] + "…"


def refused(blame: Blame, status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error for an answer whose status is not 200."""
    words = _words(blame.mask(body.decode("utf-8", "replace")))
    quoted = f": {blame.quote(words)}" if words else "."
    message, hint = _explained(blame, status, headers, words, quoted)
    return Refused(message, hint, status, words)


def failed_inside(blame: Blame, status: int, words: str) -> Refused:
    """The error for an answer that began well and holds an error of the server's."""
    return Refused(f"{blame.address} failed: {blame.quote(words)}", LOG_HINT, status, words)


def not_a_reply(blame: Blame, body: str) -> ServerError:
    """The error for an answer that is no chat completion, with the beginning of it."""
    what = _page_title(blame.mask(body)) or blame.quote(body) or "nothing"
    return ServerError(
        f"{blame.address} did not answer like a chat server, but with: {what}",
        "Check the url: it usually ends in /v1. A login page or a proxy may be in between.",
    )


def unreachable(blame: Blame, error: Exception, *, seconds: float, begun: bool) -> ServerError:
    """The error for an exception of httpx (or of what lies below it).

    Args:
        seconds: how long the wait that may have ended in it was.
        begun: whether a part of the reply has come.
    """
    import httpx

    at = blame.address
    causes = tuple(_causes(error))
    if isinstance(error, httpx.ConnectTimeout):
        return ServerError(
            _("{server} did not take the call within {seconds:.0f} s.").format(
                server=at, seconds=seconds
            ),
            _("Check the address, and whether a firewall, VPN or proxy is in between."),
        )
    if isinstance(error, httpx.TimeoutException):
        return ServerError(f"{at} has said nothing for {seconds:.0f} s.", LOG_HINT)
    if isinstance(error, httpx.ProxyError):
        return ServerError(
            f"The proxy on the way to {at} refused: {blame.quote(str(error))}",
            "See HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or list the server in NO_PROXY.",
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return ServerError(
            _("The name in {server} cannot be found.").format(server=at),
            _("Check the url and this machine's network."),
        )
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _insecure(at, cause)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ServerError(
            _("Nothing answers at {server}: connection refused.").format(server=at),
            _("Start the server there, or check the address and the port."),
        )
    if isinstance(error, httpx.ConnectError):
        return ServerError(
            f"{at} cannot be reached: {blame.quote(str(error))}", "Check the url and the network."
        )
    return broken_off(blame, begun=begun)


def broken_off(blame: Blame, *, begun: bool) -> ServerError:
    """The error for an answer that just ends; `begun`: whether a part of the reply has come."""
    when = "in mid-answer" if begun else "before it answered"
    message = f"The connection to {blame.address} broke off {when}."
    return ServerError(message, f"The server may be down. {LOG_HINT}")


def _explained(
    blame: Blame, status: int, headers: Mapping[str, str], words: str, quoted: str
) -> tuple[str, str]:
    at = blame.address
    if status == 401:
        wants = "refuses the API key" if blame.key else "wants an API key"
        return f"{at} {wants} (401){quoted}", _KEY_HINT
    if status == 403:
        return f"{at} does not allow this (403){quoted}", _KEY_HINT
    if status == 404:
        return _not_found(blame, words)
    if status == 429:
        return f"{at} is busy, or your quota is used up (429){quoted}", _when(headers)
    if 300 <= status < 400:
        goal = blame.quote(headers.get("location", "elsewhere"))
        hint = "If you trust that address, make it the url; the key is not sent there unasked."
        return f"{at} sends us on to {goal} ({status}).", hint
    if status == 407:
        return f"The proxy on the way to {at} wants a password (407){quoted}", "See HTTPS_PROXY."
    if status in (400, 413, 422) and _TOO_LONG.search(words):
        hint = "Ask something shorter, lower max_new_tokens, or start a new conversation."
        return f"This is too long for {blame.model} at {at}{quoted}", hint
    if 400 <= status < 500:
        hint = "A setting may be out of the range this server allows."
        return f"{at} refused the request ({status}){quoted}", hint
    if status == 503:
        return f"{at} is not ready (503){quoted}", _when(headers)
    return f"{at} failed ({status}){quoted}", LOG_HINT


def _not_found(blame: Blame, words: str) -> tuple[str, str]:
    # A server that knows the path names what it misses; a wrong path gets a bare "Not Found".
    about_the_model = blame.model and (blame.model in words or "model" in words.lower())
    if about_the_model:
        message = f"{blame.address} has no model {blame.quote(blame.model)} (404)."
        listed = ", ".join(map(blame.quote, blame.models[:10]))
        return message, f"It has: {listed}" if listed else blame.quote(words)
    return (
        f"There is no chat server at {blame.address} (404).",
        "Check the url: it is what comes before /chat/completions, and usually ends in /v1.",
    )


def _when(headers: Mapping[str, str]) -> str:
    wait = one_line(headers.get("retry-after", ""))[:40]
    if not wait:
        return "Try again in a little while."
    return f"Try again in {wait} s." if wait.isdecimal() else f"Try again after {wait}."


def _insecure(at: str, error: ssl.SSLError) -> ServerError:
    reason = one_line(getattr(error, "verify_message", "") or error.reason or str(error))
    if "WRONG_VERSION" in reason or "HTTP_REQUEST" in reason or "RECORD_LAYER" in reason:
        hint = "It seems to speak plain http there: write http:// in the url."
    else:
        hint = "If the certificate is your own, name its CA file in SSL_CERT_FILE."
    return ServerError(f"No secure connection to {at}: {reason}", hint)


def _words(text: str) -> str:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return _page_title(text) or text.strip()
    return refusal_text(data) or text.strip()


def _page_title(text: str) -> str:
    if not text.lstrip("\ufeff \r\n\t").startswith("<"):
        return ""
    found = re.search(r"<title[^>]*>([^<]{1,200})", text, re.IGNORECASE)
    return f"a web page, “{one_line(found[1])}”" if found else "a web page"


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
