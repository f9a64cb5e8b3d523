"""Models on an OpenAI-compatible server (vLLM, SGLang, Ollama, llama-server), over httpx.

Knows HTTP, server-sent events, the chat completions format and the deviations of servers from it.
Knows nothing of local models or the user interface.
"""

from glmtui.engine.remote.server_model import ServerModel

__all__ = ["ServerModel"]
