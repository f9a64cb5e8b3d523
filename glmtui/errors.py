"""Every error a user can meet: what happened, and what to do about it.

    GlmtuiError
    ├─ UsageError               a command line that means nothing
    ├─ ConfigError              a setting: in the file, the environment or a flag
    ├─ StoreError               conversations on disk
    │  ├─ ConversationNotFound
    │  ├─ ConversationInUse
    │  ├─ ConversationChanged
    │  ├─ CorruptConversation
    │  └─ NewerFormat
    ├─ ModelError               a model before it is in memory
    │  ├─ ModelNotFound
    │  ├─ UnsupportedModel
    │  ├─ BadCheckpoint
    │  └─ DownloadError
    ├─ EngineError              a model at work
    │  ├─ OutOfMemory
    │  └─ PromptTooLong
    ├─ ServerError              an OpenAI-compatible server
    └─ ToolError                a program that a model wants to call

They are raised at the place that knows the cause, and caught in three: the command line, the
engine thread's loop, and the app's handler of failed requests. Nothing here knows who shows them.
"""

from glmtui.net.addresses import redact_credentials


class GlmtuiError(Exception):
    """An error for the user's eyes. Passwords and queries of URLs in its text are left out.

    Args:
        message: what happened, naming the file, model or setting.
        hint: what to do about it; empty where there is nothing to do.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = redact_credentials(message)
        self.hint = redact_credentials(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(GlmtuiError):
    """The command line asks for something that does not exist or does not fit together."""


class ConfigError(GlmtuiError):
    """A setting is unknown, of the wrong type, or out of range."""


class StoreError(GlmtuiError):
    """A conversation could not be read or written."""


class ConversationNotFound(StoreError):
    """No saved conversation has this id, or more than one has."""


class ConversationInUse(StoreError):
    """Another program has this conversation open for writing."""


class ConversationChanged(StoreError):
    """The file is not as this program last read or wrote it; it is not overwritten."""


class CorruptConversation(StoreError):
    """A conversation file cannot be understood; it is set aside, never overwritten."""


class NewerFormat(StoreError):
    """A conversation file was written by a newer glmtui than this one."""


class ModelError(GlmtuiError):
    """A model cannot be found, fetched or understood."""


class ModelNotFound(ModelError):
    """No model of this name is on this machine."""


class UnsupportedModel(ModelError):
    """The checkpoint is sound but of a kind we do not run."""


class BadCheckpoint(ModelError):
    """A checkpoint's files are missing, damaged, or contradict each other."""


class DownloadError(ModelError):
    """Fetching a model failed: network, disk, index, permission or checksum."""


class EngineError(GlmtuiError):
    """A loaded model failed at its work."""


class OutOfMemory(EngineError):
    """The device has no room for the weights, the cache, or the step."""


class PromptTooLong(EngineError):
    """The last question alone does not fit into the context."""


class ServerError(GlmtuiError):
    """An OpenAI-compatible server refused, failed, or fell silent."""


class ToolError(GlmtuiError):
    """A tool that a model calls does not exist, or cannot be run with these arguments."""
