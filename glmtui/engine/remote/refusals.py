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

from glmtui.engine.remote.chat_completions import refusal_text
from glmtui.errors import ServerError
from glmtui.language import N_, _
from glmtui.sanitize import sanitize_line

MAX_QUOTE = 300

_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|prompt is too long|too many tokens|reduce the length",
    re.IGNORECASE | re.DOTALL,
)
_CONTINUING = re.compile(
    r"assistant|prefill|prefix|last (message|role)|final_message|generation_prompt", re.IGNORECASE
)
_TURNS = re.compile(
    r"alternat|\broles?\b|system (?:message|prompt|instruction)|(?:first|consecutive) "
    r"(?:message|turn)|conversation|messages? (?:must|should|order)|角色|交替",
    re.IGNORECASE,
)
_KEY_HINT = N_("Put the key into an environment variable and name it as key_env in [servers.NAME].")
LOG_HINT = N_("The server's own log says more.")


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
    def about_turns(self) -> bool:
        """Whether the server minds the order of the messages, or a role; some say so as 500."""
        return (self.bad_request or self.status >= 500) and bool(_TURNS.search(self.words))

    @property
    def about_continuing(self) -> bool:
        """Whether the server minds that the last message is the assistant's."""
        return self.bad_request and bool(_CONTINUING.search(self.words))


@dataclass(frozen=True, slots=True)
class ErrorContext:
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
        text = sanitize_line(self.mask(words))
        return text if len(text) <= MAX_QUOTE else text[: MAX_QUOTE - 1] + "…"


def refused(blame: ErrorContext, status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    """The error for an answer whose status is not 200."""
    words = _words(blame.mask(body.decode("utf-8", "replace")))
    quoted = f": {blame.quote(words)}" if words else "."
    message, hint = _explained(blame, status, headers, words, quoted)
    return Refused(message, hint, status, words)


def failed_inside(blame: ErrorContext, status: int, words: str) -> Refused:
    """The error for an answer that began well and holds an error of the server's."""
    return Refused(
        _("{server} failed: {words}").format(server=blame.address, words=blame.quote(words)),
        _(LOG_HINT),
        status,
        words,
    )


def nothing_shown(
    blame: ErrorContext, tools: Sequence[str], others: Sequence[str], finish: str | None
) -> ServerError:
    """The error for a reply that came to its end and has no text.

    Args:
        tools: calls of tools in it, a name and arguments each.
        others: types of what else is in it.
    """
    if tools:
        said = _("{server} wants a tool called instead of a reply: {what}")
        hint = _("No tools are offered to servers. Ask for an answer in words.")
    elif others:
        said = _("{server} sent a reply without text, but with: {what}")
        hint = _("Only text can be shown. Ask for an answer in words, or pick another model.")
    elif finish == "length":
        said = _("{server} ended the reply at its length, before the first word.")
        hint = _("Set max_new_tokens higher: thoughts that the server keeps to itself count, too.")
    else:
        said, hint = _("{server} sent an empty reply."), _("Ask once more, or in other words.")
    what = blame.quote(", ".join(tools or others))
    return ServerError(said.format(server=blame.address, what=what), hint)


def too_long_an_answer(blame: ErrorContext, limit: int) -> ServerError:
    """The error for an answer of more bytes than any sound one."""
    return ServerError(
        _("The answer of {server} does not end: {size} MB so far.").format(
            server=blame.address, size=limit >> 20
        ),
        _(LOG_HINT),
    )


def not_a_reply(blame: ErrorContext, body: str) -> ServerError:
    """The error for an answer that is no chat completion, with the beginning of it."""
    what = _page_title(blame.mask(body)) or blame.quote(body) or _("nothing")
    return ServerError(
        _("{server} did not answer like a chat server, but with: {what}").format(
            server=blame.address, what=what
        ),
        _("Check the url: it usually ends in /v1. A login page or a proxy may be in between."),
    )


def unreachable(
    blame: ErrorContext, error: Exception, *, seconds: float, begun: bool
) -> ServerError:
    """The error for an exception of httpx (or of what lies below it).

    Args:
        seconds: how long the wait that may have ended in it was.
        begun: whether a part of the reply has come.
    """
    import httpx

    from glmtui.net.http_client import (
        DeadlineExceeded,
        ResponseTooLong,
        UnexpectedEncoding,
        UnusableCertificates,
        UnusableProxy,
    )

    at = blame.address
    if isinstance(error, UnexpectedEncoding):
        return ServerError(
            _("{server} sent a compressed answer, which was not asked for.").format(server=at),
            _("Turn compression off in the server, or in the proxy before it."),
        )
    if isinstance(error, ResponseTooLong):
        return ServerError(
            _("The answer of {server} is too long to be sound.").format(server=at), _(LOG_HINT)
        )
    if isinstance(error, DeadlineExceeded):
        return ServerError(
            _("{server} did not send the whole of its answer within {seconds:.0f} s.").format(
                server=at, seconds=seconds
            ),
            _(LOG_HINT),
        )
    if isinstance(error, UnusableProxy):
        return ServerError(
            _("The proxy set in the environment cannot be used: {reason}").format(
                reason=sanitize_line(str(error))
            ),
            _(
                "See HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or list the server in NO_PROXY; a "
                "SOCKS proxy needs `pip install httpx[socks]`."
            ),
        )
    if isinstance(error, UnusableCertificates):
        return ServerError(sanitize_line(str(error)), _("See SSL_CERT_FILE and SSL_CERT_DIR."))
    causes = tuple(_causes(error))
    if isinstance(error, httpx.ConnectTimeout):
        return ServerError(
            _("{server} did not take the call within {seconds:.0f} s.").format(
                server=at, seconds=seconds
            ),
            _("Check the address, and whether a firewall, VPN or proxy is in between."),
        )
    if isinstance(error, httpx.TimeoutException):
        return ServerError(
            _("{server} has said nothing for {seconds:.0f} s.").format(server=at, seconds=seconds),
            _(LOG_HINT),
        )
    if isinstance(error, httpx.ProxyError):
        return ServerError(
            _("The proxy on the way to {server} refused: {words}").format(
                server=at, words=blame.quote(str(error))
            ),
            _("See HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or list the server in NO_PROXY."),
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
            _("{server} cannot be reached: {words}").format(
                server=at, words=blame.quote(str(error))
            ),
            _("Check the url and the network."),
        )
    return broken_off(blame, begun=begun)


def broken_off(blame: ErrorContext, *, begun: bool) -> ServerError:
    """The error for an answer that just ends; `begun`: whether a part of the reply has come."""
    said = _("The connection to {server} broke off before it answered.")
    if begun:
        said = _("The connection to {server} broke off in mid-answer.")
    hint = _("The server may be down. The server's own log says more.")
    return ServerError(said.format(server=blame.address), hint)


def _explained(
    blame: ErrorContext, status: int, headers: Mapping[str, str], words: str, quoted: str
) -> tuple[str, str]:
    if status == 404:
        return _not_found(blame, words)
    said, hint = _("{server} failed ({status}){quoted}"), _(LOG_HINT)
    if status == 401:
        said = _("{server} wants an API key ({status}){quoted}")
        if blame.key:
            said = _("{server} refuses the API key ({status}){quoted}")
        hint = _(_KEY_HINT)
    elif status == 403:
        said, hint = _("{server} does not allow this ({status}){quoted}"), _(_KEY_HINT)
    elif status == 429:
        said = _("{server} is busy, or your quota is used up ({status}){quoted}")
        hint = _when(headers)
    elif 300 <= status < 400:
        said = _("{server} sends us on to {quoted} ({status}).")
        quoted = blame.quote(headers.get("location", "?"))
        hint = _("If you trust that address, make it the url; the key is not sent there unasked.")
    elif status == 407:
        said = _("The proxy on the way to {server} wants a password ({status}){quoted}")
        hint = _("See HTTPS_PROXY.")
    elif status in (400, 413, 422) and _TOO_LONG.search(words):
        said = _("This is too long for {model} at {server}{quoted}")
        hint = _("Ask something shorter, lower max_new_tokens, or start a new conversation.")
    elif 400 <= status < 500:
        said = _("{server} refused the request ({status}){quoted}")
        hint = _("A setting may be out of the range this server allows.")
    elif status == 503:
        said, hint = _("{server} is not ready ({status}){quoted}"), _when(headers)
    filled = said.format(server=blame.address, model=blame.model, status=status, quoted=quoted)
    return filled, hint


def _not_found(blame: ErrorContext, words: str) -> tuple[str, str]:
    # A server that knows the path names what it misses; a wrong path gets a bare "Not Found".
    about_the_model = blame.model and (blame.model in words or "model" in words.lower())
    if about_the_model:
        message = _("{server} has no model {model} (404).").format(
            server=blame.address, model=blame.quote(blame.model)
        )
        listed = ", ".join(map(blame.quote, blame.models[:10]))
        return message, _("It has: {names}").format(names=listed) if listed else blame.quote(words)
    return (
        _("There is no chat server at {server} (404).").format(server=blame.address),
        _("Check the url: it is what comes before /chat/completions, and usually ends in /v1."),
    )


def _when(headers: Mapping[str, str]) -> str:
    wait = sanitize_line(headers.get("retry-after", ""))[:40]
    if not wait:
        return _("Try again in a little while.")
    said = _("Try again in {wait} s.") if wait.isdecimal() else _("Try again after {wait}.")
    return said.format(wait=wait)


def _insecure(at: str, error: ssl.SSLError) -> ServerError:
    reason = sanitize_line(getattr(error, "verify_message", "") or error.reason or str(error))
    if "WRONG_VERSION" in reason or "HTTP_REQUEST" in reason or "RECORD_LAYER" in reason:
        hint = _("It seems to speak plain http there: write http:// in the url.")
    else:
        hint = _("If the certificate is your own, name its CA file in SSL_CERT_FILE.")
    return ServerError(
        _("No secure connection to {server}: {reason}").format(server=at, reason=reason), hint
    )


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
    return (
        _("a web page, “{title}”").format(title=sanitize_line(found[1]))
        if found
        else _("a web page")
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
