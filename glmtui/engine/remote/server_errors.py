"""Errors of a chat server, or of the connection to it, as messages for the user.

Translates HTTP statuses and exceptions of httpx and of the sockets below it. The API key is masked
in all text from the server, which is also shortened and sanitized.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from glmtui.engine.remote.chat_completions import error_text
from glmtui.engine.remote.json_text import parse_json
from glmtui.errors import ServerError
from glmtui.language import N_, _
from glmtui.sanitize import SafeText, sanitize_line

MAX_QUOTE = 300  # characters of a server's text that a message quotes

_TOO_LONG = re.compile(
    r"context.{0,20}(length|size|window)|prompt is too long|too many tokens|reduce the length",
    re.IGNORECASE | re.DOTALL,
)
_CONTINUATION = re.compile(
    r"assistant|prefill|prefix|last (message|role)|final_message|generation_prompt", re.IGNORECASE
)
_TURNS = re.compile(
    r"alternat|\broles?\b|system (?:message|prompt|instruction)|(?:first|consecutive) "
    r"(?:message|turn)|conversation|messages? (?:must|should|order)|角色|交替",
    re.IGNORECASE,
)
_TITLE = re.compile(r"<title[^>]*>([^<]{1,200})", re.IGNORECASE)
_KEY_HINT = N_("Put the key into an environment variable and name it in key_env of [servers.NAME].")
LOG_HINT = N_("See the server's log for details.")


class RequestRefused(ServerError):
    """The server answered with an error instead of a reply.

    Attributes:
        status: the HTTP status, or the one in the body of the answer; 0 if there is none.
        words: the server's error text in full length, for pattern matching only.
    """

    def __init__(self, message: str, hint: str, status: int, words: str) -> None:
        super().__init__(message, hint)
        self.status = status
        self.words = words

    @property
    def bad_request(self) -> bool:
        """Whether the server objects to the content of the request."""
        return self.status in (400, 413, 422)

    @property
    def too_long(self) -> bool:
        """Whether the conversation is longer than the context of the model."""
        return self.bad_request and bool(_TOO_LONG.search(self.words))

    @property
    def about_turns(self) -> bool:
        """Whether the server objects to the order or roles of messages. Some report this as 500."""
        return (self.bad_request or self.status >= 500) and bool(_TURNS.search(self.words))

    @property
    def about_continuation(self) -> bool:
        """Whether the server objects to a last message with the role "assistant"."""
        return self.bad_request and bool(_CONTINUATION.search(self.words))


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """The server and model that errors are about.

    Attributes:
        address: redacted URL of the server.
        model: the requested model; empty before one is chosen.
        key: the API key, to mask it where the server repeats it.
        models: the models that the server lists; empty if it does not list them.
    """

    address: str
    model: str = ""
    key: str = ""
    models: Sequence[str] = ()

    def mask(self, text: str) -> str:
        """`text` without the API key."""
        return text.replace(self.key, "[the API key]") if self.key else text

    def quote(self, text: str) -> SafeText:
        """Text from the server on one line, shortened, without the API key."""
        line = sanitize_line(self.mask(text))
        return line if len(line) <= MAX_QUOTE else SafeText(line[: MAX_QUOTE - 1] + "…")


def status_error(
    context: ErrorContext, status: int, headers: Mapping[str, str], body: bytes
) -> RequestRefused:
    """The error for an HTTP status other than success."""
    text = context.mask(body.decode("utf-8", "replace"))
    title = _page_title(text)
    if title is not None:
        words = title
        quoted = _(" and sent a web page instead of an answer.")
        if title:
            quoted = _(" and sent a web page instead of an answer: “{title}”").format(title=title)
    else:
        words = error_text(parse_json(text)) or text.strip()
        quoted = f": {context.quote(words)}" if words else "."
    message, hint = _explain_status(context, status, headers, words, quoted)
    return RequestRefused(message, hint, status, words)


def error_in_reply(context: ErrorContext, status: int, words: str) -> RequestRefused:
    """The error for an answer with status 200 that contains an error."""
    return RequestRefused(
        _("{server} failed: {words}").format(server=context.address, words=context.quote(words)),
        _(LOG_HINT),
        status,
        words,
    )


def empty_reply_error(
    context: ErrorContext, tools: Sequence[str], other_types: Sequence[str], finish: str | None
) -> ServerError:
    """The error for a complete reply without text.

    Args:
        tools: its tool calls, each as name and arguments.
        other_types: types of its other content, such as "image_url".
        finish: its finish reason.
    """
    if tools:
        message = _("{server} calls a tool instead of replying: {what}")
        hint = _("glmtui offers no tools to servers. Ask for an answer in words.")
    elif other_types:
        message = _("{server} sent a reply without text: {what}")
        hint = _("Only text can be shown. Ask for an answer in words, or pick another model.")
    elif finish == "length":
        message = _("{server} reached the length limit before the first word.")
        hint = _("Increase max_new_tokens: hidden reasoning counts, too.")
    else:
        message, hint = (
            _("{server} sent an empty reply."),
            _("Try again, or rephrase the question."),
        )
    what = context.quote(", ".join(tools or other_types))
    return ServerError(message.format(server=context.address, what=what), hint)


def answer_too_long_error(context: ErrorContext, limit: int) -> ServerError:
    """The error for an answer of more than `limit` bytes."""
    return ServerError(
        _("The answer of {server} exceeds {size} MB.").format(
            server=context.address, size=limit >> 20
        ),
        _(LOG_HINT),
    )


def not_a_chat_server_error(context: ErrorContext, body: str) -> ServerError:
    """The error for an answer that is not a chat completion; it quotes the beginning."""
    title = _page_title(context.mask(body))
    if title:
        what = _("a web page, “{title}”").format(title=title)
    elif title is not None:
        what = _("a web page")
    else:
        what = context.quote(body) or _("nothing")
    return ServerError(
        _("{server} is not a chat server. It answered with: {what}").format(
            server=context.address, what=what
        ),
        _("Check the URL: it usually ends in /v1. A login page or a proxy may be in between."),
    )


def connection_error(
    context: ErrorContext, error: Exception, *, seconds: float, reply_started: bool
) -> ServerError:
    """The error for an exception of httpx, or of a layer below it.

    Args:
        seconds: time since the last data arrived.
        reply_started: whether a part of the reply has arrived.
    """
    import httpx

    from glmtui.net.http_client import (
        DeadlineExceeded,
        ResponseTooLong,
        UnexpectedEncoding,
        UnusableCertificates,
        UnusableProxy,
    )

    server = context.address
    if isinstance(error, UnexpectedEncoding):
        return ServerError(
            _("{server} sent a compressed answer, which glmtui does not accept.").format(
                server=server
            ),
            _("Turn off compression in the server, or in the proxy in front of it."),
        )
    if isinstance(error, ResponseTooLong):
        return ServerError(
            _("The answer of {server} is too long.").format(server=server), _(LOG_HINT)
        )
    if isinstance(error, DeadlineExceeded):
        return ServerError(
            _("{server} did not complete its answer within {seconds:.0f} s.").format(
                server=server, seconds=seconds
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
            _("Could not connect to {server} within {seconds:.0f} s.").format(
                server=server, seconds=seconds
            ),
            _("Check the address, and whether a firewall, VPN or proxy is in between."),
        )
    if isinstance(error, httpx.TimeoutException):
        return ServerError(
            _("{server} has sent nothing for {seconds:.0f} s.").format(
                server=server, seconds=seconds
            ),
            _(LOG_HINT),
        )
    if isinstance(error, httpx.ProxyError):
        return ServerError(
            _("The proxy for {server} refused the connection: {words}").format(
                server=server, words=context.quote(str(error))
            ),
            _("See HTTP_PROXY, HTTPS_PROXY and ALL_PROXY, or list the server in NO_PROXY."),
        )
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return ServerError(
            _("Could not resolve the host name in {server}.").format(server=server),
            _("Check the URL and the network of this machine."),
        )
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _tls_error(server, cause)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return ServerError(
            _("No server at {server}: connection refused.").format(server=server),
            _("Start the server there, or check the address and the port."),
        )
    if isinstance(error, httpx.ConnectError):
        return ServerError(
            _("Could not connect to {server}: {words}").format(
                server=server, words=context.quote(str(error))
            ),
            _("Check the URL and the network."),
        )
    return disconnected_error(context, reply_started=reply_started)


def disconnected_error(context: ErrorContext, *, reply_started: bool) -> ServerError:
    """The error for an answer that is cut off.

    Args:
        reply_started: whether a part of the reply has arrived.
    """
    message = _("The connection to {server} was closed before it answered.")
    if reply_started:
        message = _("The connection to {server} was closed in the middle of the answer.")
    hint = _("The server may have stopped. See the server's log for details.")
    return ServerError(message.format(server=context.address), hint)


def _explain_status(
    context: ErrorContext, status: int, headers: Mapping[str, str], words: str, quoted: str
) -> tuple[str, str]:
    """Message and hint for an HTTP status.

    Args:
        words: the server's error text.
        quoted: the end of the message's sentence, with the error text.
    """
    if status == 404:
        return _explain_not_found(context, words)
    message, hint = _("{server} failed ({status}){quoted}"), _(LOG_HINT)
    if status == 401:
        message = _("{server} requires an API key ({status}){quoted}")
        if context.key:
            message = _("{server} rejected the API key ({status}){quoted}")
        hint = _(_KEY_HINT)
    elif status == 403:
        message, hint = _("{server} denied access ({status}){quoted}"), _(_KEY_HINT)
    elif status == 429:
        message = _("{server} is busy, or your quota is used up ({status}){quoted}")
        hint = _retry_hint(headers)
    elif 300 <= status < 400:
        message = _("{server} redirects to {quoted} ({status}).")
        quoted = context.quote(headers.get("location", "?"))
        hint = _("If you trust that address, set it as url. glmtui does not send the key there.")
    elif status == 407:
        message = _("The proxy for {server} requires a password ({status}){quoted}")
        hint = _("See HTTPS_PROXY.")
    elif status in (400, 413, 422) and _TOO_LONG.search(words):
        message = _("The question is too long for {model} at {server}{quoted}")
        hint = _("Shorten the question, lower max_new_tokens, or start a new conversation.")
    elif 400 <= status < 500:
        message = _("{server} refused the request ({status}){quoted}")
        hint = _("A setting may be out of the range that this server allows.")
    elif status == 503:
        message, hint = _("{server} is not ready ({status}){quoted}"), _retry_hint(headers)
    fields = {"server": context.address, "model": context.model}
    return message.format(**fields, status=status, quoted=quoted), hint


def _explain_not_found(context: ErrorContext, words: str) -> tuple[str, str]:
    # If the path is right, the text names the missing model; else it is a bare "Not Found".
    if context.model and (context.model in words or "model" in words.lower()):
        message = _("{server} has no model {model} (404).").format(
            server=context.address, model=context.quote(context.model)
        )
        listed = ", ".join(map(context.quote, context.models[:10]))
        hint = _("Available models: {names}").format(names=listed)
        return message, hint if listed else context.quote(words)
    return (
        _("There is no chat server at {server} (404).").format(server=context.address),
        _("Check the URL: it is the part before /chat/completions, and usually ends in /v1."),
    )


def _retry_hint(headers: Mapping[str, str]) -> str:
    wait = sanitize_line(headers.get("retry-after", ""))[:40]
    if not wait:
        return _("Try again later.")
    hint = _("Try again in {wait} s.") if wait.isdecimal() else _("Try again after {wait}.")
    return hint.format(wait=wait)


def _tls_error(server: str, error: ssl.SSLError) -> ServerError:
    reason = sanitize_line(getattr(error, "verify_message", "") or error.reason or str(error))
    if "WRONG_VERSION" in reason or "HTTP_REQUEST" in reason or "RECORD_LAYER" in reason:
        hint = _("The server seems to use plain http: write http:// in the URL.")
    else:
        hint = _("For a self-signed certificate, set SSL_CERT_FILE to its CA file.")
    message = _("No secure connection to {server}: {reason}")
    return ServerError(message.format(server=server, reason=reason), hint)


def _page_title(text: str) -> str | None:
    """The title of a web page, "" if it has none; None if `text` is not a web page."""
    if not text.lstrip("\ufeff \r\n\t").startswith("<"):
        return None
    found = _TITLE.search(text)
    return sanitize_line(found[1]) if found else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__
