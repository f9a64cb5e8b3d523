"""The other backend: an OpenAI-compatible server (vLLM, SGLang, Ollama, llama-server) over httpx.

`model` is the way in; `call` speaks HTTP, `reply` reads a stream, `answer`, `content`,
`chat_completions` and `sse` know what is said, `fields` and `refusals` what it means when the
answer is no.
"""

from glmtui.engine.remote.server_model import ServerModel

__all__ = ["ServerModel"]
