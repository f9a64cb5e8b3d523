"""The other backend: an OpenAI-compatible server, elsewhere or on this machine.

Knows which model is asked for and what the server says of its models. Imports httpx only when a
server is called.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from glmtui.chat import Message, SamplingParams
from glmtui.engine.api import PrefillProgress
from glmtui.engine.model_info import LoadedInfo, ServerSpec
from glmtui.engine.remote.call import ServerCall
from glmtui.engine.remote.chat_completions import ListedModel, extra_fields
from glmtui.engine.remote.detached_call import run_detached
from glmtui.engine.remote.endpoint import Endpoint
from glmtui.engine.remote.model_list import ModelList
from glmtui.engine.remote.refusals import ErrorContext
from glmtui.engine.remote.reply import ServerReply
from glmtui.engine.remote.request_fields import RequestFields
from glmtui.errors import ServerError
from glmtui.language import _
from glmtui.sanitize import sanitize_line


class ServerModel:
    """An `api.ChatModel` that runs on a server. Making one calls nobody; `connect` does.

    Args:
        listed: the models the server says it has; the first is taken if `spec` names none.

    Raises ServerError where there is no usable address, key or model.
    """

    def __init__(
        self, spec: ServerSpec, listed: Sequence[ListedModel] = (), load_seconds: float = 0.0
    ) -> None:
        self._endpoint = Endpoint(spec)
        name = spec.model or next((model.id for model in listed), "")
        if not name:
            raise ServerError(
                _("{server} does not say which models it has.").format(server=self._endpoint.shown),
                _("Name one as model in [servers.NAME]."),
            )
        known = next((model for model in listed if model.id == name), ListedModel(name))
        self._blame = ErrorContext(
            self._endpoint.shown, name, self._endpoint.key, [model.id for model in listed]
        )
        self._tells_progress = known.owner == "llamacpp"
        self._fields = RequestFields()
        self._reply: ServerReply | None = None
        self._info = LoadedInfo(
            name=sanitize_line(name),
            device=self._endpoint.shown,
            context_length=known.context_length,
            load_seconds=load_seconds,
            backend="server",
        )

    @classmethod
    def connect(cls, spec: ServerSpec, cancelled: threading.Event | None = None) -> ServerModel:
        """Asks the server for its models first, so that what is wrong shows now.

        A server that does not list its models is taken at the word of `spec`.

        Args:
            cancelled: once set, nobody waits for the server any more, whatever it is doing.

        Raises ServerError, LoadCancelled.
        """
        started = time.monotonic()
        question = ModelList(Endpoint(spec))
        listed = run_detached(
            lambda: question.ask(model=spec.model), cancelled, give_up=question.abort
        )
        return cls(spec, listed, time.monotonic() - started)

    @property
    def info(self) -> LoadedInfo:
        """Its `device` is the server's address."""
        return self._info

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        cancelled: Callable[[], bool] = lambda: False,
        on_prefill: Callable[[PrefillProgress], None] = lambda progress: None,
    ) -> ServerReply:
        """Starts a reply. `max_length` is not sent: servers limit the reply alone.

        A conversation too long for the server loses its older half, and again, until it fits;
        fields that it refuses are renamed or left out from then on (the log names them), and turns
        are joined so that user and assistant alternate. Thoughts are not sent back. A last message
        of the assistant's is continued, by servers that can.
        """
        params = params or SamplingParams()
        extra = extra_fields(params)
        if self._tells_progress:
            extra["return_progress"] = True
        call = ServerCall(self._endpoint, self._blame, messages, params, extra, self._fields)
        self._reply = ServerReply(call, cancelled, on_prefill)
        return self._reply

    def clear_cache(self) -> None:
        """Nothing: what is cached is the server's."""

    def close(self) -> None:
        """Hangs up on the reply that is being written, if any."""
        if self._reply is not None:
            self._reply.close()
