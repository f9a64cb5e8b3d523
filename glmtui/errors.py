"""All errors that are shown to users: what happened, and what to do about it.

    GlmtuiError
    ├─ UsageError               wrong command line arguments
    ├─ ConfigError              a wrong setting in the file, the environment or a flag
    ├─ StoreError               conversations on disk
    │  ├─ ConversationNotFound
    │  ├─ ConversationInUse
    │  ├─ ConversationChanged
    │  ├─ CorruptConversation
    │  └─ NewerFormat
    ├─ ModelError               finding, downloading or loading a model
    │  ├─ ModelNotFound
    │  ├─ UnsupportedModel
    │  ├─ BadCheckpoint
    │  └─ DownloadError
    ├─ EngineError              running a loaded model
    │  ├─ OutOfMemory
    │  └─ PromptTooLong
    ├─ ServerError              an OpenAI-compatible server
    └─ ToolError                a program that a model calls

They are raised where the cause is known and caught in three places: the command line, the loop of
the engine thread, and the app's handler of failed requests.
"""

from glmtui.net.addresses import redact_credentials


class GlmtuiError(Exception):
    """An error to show to the user. Passwords and queries of URLs in its text are redacted.

    Args:
        message: what happened, with the name of the file, model or setting.
        hint: what to do about it; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = redact_credentials(message)
        self.hint = redact_credentials(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(GlmtuiError):
    """The arguments of the command line are unknown or contradict each other."""


class ConfigError(GlmtuiError):
    """A setting is unknown, of the wrong type, or out of range."""


class StoreError(GlmtuiError):
    """A conversation could not be read or written."""


class ConversationNotFound(StoreError):
    """No saved conversation, or more than one, matches this id."""


class ConversationInUse(StoreError):
    """Another process has this conversation open for writing."""


class ConversationChanged(StoreError):
    """The file was changed outside this process; it is not overwritten."""


class CorruptConversation(StoreError):
    """A conversation file cannot be parsed; it is set aside, never overwritten."""


class NewerFormat(StoreError):
    """A conversation file was written by a newer version of glmtui."""


class ModelError(GlmtuiError):
    """A model cannot be found, downloaded or loaded."""


class ModelNotFound(ModelError):
    """There is no model of this name on this machine."""


class UnsupportedModel(ModelError):
    """The checkpoint is valid, but glmtui does not support its kind."""


class BadCheckpoint(ModelError):
    """Files of a checkpoint are missing, damaged, or contradict each other."""


class DownloadError(ModelError):
    """A download failed: network, disk, package index, permission or checksum."""


class EngineError(GlmtuiError):
    """A loaded model failed while running."""


class OutOfMemory(EngineError):
    """The device lacks memory for the weights, the cache, or a computation."""


class PromptTooLong(EngineError):
    """The last question alone is longer than the context."""


class ServerError(GlmtuiError):
    """An OpenAI-compatible server refused a request, failed, or does not answer."""


class ToolError(GlmtuiError):
    """A tool called by a model does not exist, or cannot run with these arguments."""
