"""A model on an OpenAI-compatible server. httpx is imported only when a server is called."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import PrefillProgress
from glmtui.engine.model_info import LoadedInfo, ServerSpec
from glmtui.engine.remote.chat_completions import ListedModel, extra_fields
from glmtui.engine.remote.detached_call import run_detached
from glmtui.engine.remote.endpoint import Endpoint
from glmtui.engine.remote.field_adjustments import FieldAdjustments
from glmtui.engine.remote.model_list import ModelListRequest
from glmtui.engine.remote.server_call import ServerCall
from glmtui.engine.remote.server_errors import ErrorContext
from glmtui.engine.remote.server_reply import ServerReply
from glmtui.errors import ServerError
from glmtui.language import _
from glmtui.sanitize import sanitize_line


class ServerModel:
    """An `api.ChatModel` on a server. The constructor sends no request; `connect` does.

    Args:
        listed: the models that the server lists; the first one is used if `spec` names none.

    Raises ServerError if the address, the key or the model is missing or invalid.
    """

    def __init__(
        self, spec: ServerSpec, listed: Sequence[ListedModel] = (), load_seconds: float = 0.0
    ) -> None:
        self._endpoint = Endpoint(spec)
        server = self._endpoint.redacted_url
        name = spec.model or next((model.id for model in listed), "")
        if not name:
            raise ServerError(
                _("{server} does not list its models.").format(server=server),
                _("Set model in [servers.NAME]."),
            )
        model = next((model for model in listed if model.id == name), ListedModel(name))
        self._error_context = ErrorContext(
            server, name, self._endpoint.key, [model.id for model in listed]
        )
        self._reports_progress = model.owner == "llamacpp"
        self._adjustments = FieldAdjustments()
        self._reply: ServerReply | None = None
        self._info = LoadedInfo(
            name=sanitize_line(name),
            device=server,
            context_length=model.context_length,
            load_seconds=load_seconds,
            backend="server",
        )

    @classmethod
    def connect(cls, spec: ServerSpec, cancelled: threading.Event | None = None) -> ServerModel:
        """Request the list of models, to find errors of the server before the first question.

        Args:
            cancelled: abandons the request when it is set.

        Raises ServerError, LoadCancelled.
        """
        started = time.monotonic()
        request = ModelListRequest(Endpoint(spec))
        listed = run_detached(
            lambda: request.send(model=spec.model), cancelled, abort=request.abort
        )
        return cls(spec, listed, time.monotonic() - started)

    @property
    def info(self) -> LoadedInfo:
        """The model; its `device` is the server's address."""
        return self._info

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[PrefillProgress], None] = lambda progress: None,
    ) -> ServerReply:
        """Start a reply. `max_length` is not sent, because servers only limit the reply.

        If the conversation is too long for the server, its older half is dropped, repeatedly if
        necessary. Fields that the server refuses are renamed or dropped from then on, which is
        logged. Messages are joined so that user and assistant alternate, and reasoning is not sent.
        If the last message is the assistant's, the server is asked to continue it.
        """
        params = params or SamplingParams()
        extra = extra_fields(params)
        if self._reports_progress:
            extra["return_progress"] = True
        call = ServerCall(
            self._endpoint, self._error_context, messages, params, extra, self._adjustments
        )
        self._reply = ServerReply(call, cancelled, on_prefill)
        return self._reply

    def clear_cache(self) -> None:
        """Do nothing: the cache is the server's."""

    def close(self) -> None:
        """Abort the current reply, if any."""
        if self._reply is not None:
            self._reply.close()
