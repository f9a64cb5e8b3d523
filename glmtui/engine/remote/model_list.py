"""The request for the list of a server's models."""

from __future__ import annotations

import time

from glmtui.engine.remote.chat_completions import ListedModel, parse_models
from glmtui.engine.remote.endpoint import Endpoint
from glmtui.engine.remote.json_text import parse_json
from glmtui.engine.remote.server_errors import (
    ErrorContext,
    connection_error,
    not_a_chat_server_error,
    status_error,
)
from glmtui.engine.remote.surrogates import decode_utf8, repair_surrogates

MAX_LIST_BYTES = 4 << 20
LIST_SECONDS = 30.0  # for the whole answer
NAMED_LIST_SECONDS = 10.0  # the same if the model is named, so that the list is optional


class ModelListRequest:
    """A request for the models of a server."""

    def __init__(self, endpoint: Endpoint) -> None:
        from glmtui.net.http_client import AbortHandle

        self._endpoint = endpoint
        self._abort_handle = AbortHandle()

    def send(self, *, model: str = "") -> tuple[ListedModel, ...]:
        """Fetch the models. Blocks; `abort` from another thread ends it.

        Args:
            model: the model to use, if it is known. Then the list is optional, and empty if the
                server refuses it or sends something else. Only errors that would occur in the chat,
                too, are raised: no connection, or a wrong key.

        Raises ServerError.
        """
        import httpx

        from glmtui.net.http_client import DeadlineExceeded, abort_when, read_body

        context = ErrorContext(self._endpoint.redacted_url, key=self._endpoint.key)
        started = time.monotonic()
        limit = NAMED_LIST_SECONDS if model else LIST_SECONDS
        try:
            with (
                abort_when(self._abort_handle, seconds=limit),
                self._endpoint.open_client(limit, self._abort_handle) as client,
                client.stream("GET", self._endpoint.url("/models")) as response,
            ):
                status, headers = response.status_code, response.headers
                body = read_body(response, MAX_LIST_BYTES)
        except httpx.HTTPError as error:
            unreachable = isinstance(
                error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)
            )
            if model and (isinstance(error, DeadlineExceeded) or not unreachable):
                return ()
            seconds = time.monotonic() - started
            raise connection_error(context, error, seconds=seconds, reply_started=False) from error
        if model and status not in (*range(200, 300), 401, 407):
            return ()
        if not 200 <= status < 300:
            raise status_error(context, status, headers, body)
        text = repair_surrogates(decode_utf8(body))
        try:
            return parse_models(parse_json(text.removeprefix("\ufeff")))
        except ValueError as error:
            if model:
                return ()
            raise not_a_chat_server_error(context, text) from error

    def abort(self) -> None:
        """End the request. Thread-safe."""
        self._abort_handle.abort()
