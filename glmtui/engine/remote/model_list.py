"""Which models a server has, as far as it says so."""

from __future__ import annotations

import time

from glmtui.engine.remote.chat_completions import ListedModel, parse_models
from glmtui.engine.remote.endpoint import Endpoint
from glmtui.engine.remote.json_text import parse_json
from glmtui.engine.remote.refusals import ErrorContext, not_a_reply, refused, unreachable
from glmtui.engine.remote.text_pieces import decode, whole_characters

MAX_LIST_BYTES = 4 << 20
LIST_SECONDS = 30.0  # for the whole list
NAMED_LIST_SECONDS = 10.0  # where it is not needed


class ModelList:
    """A question for the models of a server."""

    def __init__(self, endpoint: Endpoint) -> None:
        from glmtui.net.http_client import AbortHandle

        self._endpoint = endpoint
        self._abort_handle = AbortHandle()

    def ask(self, *, model: str = "") -> tuple[ListedModel, ...]:
        """The models. Blocks; from another thread, `abort` ends it.

        Where `model` says what to use, the list is a convenience: if the server refuses it, or
        sends something else, there is nothing in it, and the chat's own answer decides. That a
        server cannot be reached, or wants another key, would hold for the chat as well.

        Raises ServerError.
        """
        import httpx

        from glmtui.net.http_client import DeadlineExceeded, abort_when, read_body

        blame = ErrorContext(self._endpoint.shown, key=self._endpoint.key)
        started = time.monotonic()
        limit = NAMED_LIST_SECONDS if model else LIST_SECONDS
        try:
            with (
                abort_when(self._abort_handle, seconds=limit),
                self._endpoint.client(limit, self._abort_handle) as client,
                client.stream("GET", self._endpoint.url("/models")) as response,
            ):
                status, headers = response.status_code, response.headers
                body = read_body(response, MAX_LIST_BYTES)
        except httpx.HTTPError as error:
            nobody = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError))
            if model and (isinstance(error, DeadlineExceeded) or not nobody):
                return ()
            waited = time.monotonic() - started
            raise unreachable(blame, error, seconds=waited, begun=False) from error
        if model and status not in (*range(200, 300), 401, 407):
            return ()
        if not 200 <= status < 300:
            raise refused(blame, status, headers, body)
        text = whole_characters(decode(body))
        try:
            return parse_models(parse_json(text.removeprefix("\ufeff")))
        except ValueError as error:
            if model:
                return ()
            raise not_a_reply(blame, text) from error

    def abort(self) -> None:
        """Ends the question. From any thread."""
        self._abort_handle.abort()
