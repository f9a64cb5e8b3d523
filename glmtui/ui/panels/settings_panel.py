"""SettingsPanel: how replies are sampled and the system prompt, checked as they are typed.

Its rows are made from the declarations in `glmtui.config.settings`. What an emptied field falls
back to is the model's own. Knows no conversation: it is told values and posts those that change.
"""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.widget import Widget
from textual.widgets import Input, Static, TextArea

from glmtui.chat import SamplingParams
from glmtui.config import SAMPLING_FIELDS, find_setting, presets
from glmtui.config.schema import Setting, Value
from glmtui.errors import ConfigError
from glmtui.language import _
from glmtui.sanitize import sanitize

SYSTEM = "system_prompt"


def without_effect(name: str, params: SamplingParams) -> str:
    """Why the sampling parameter `name` changes nothing beside the others; "" if it does.

    Args:
        params: as they are in force, the model's defaults filled in.
    """
    if name == "temperature" and params.do_sample is False:
        return _("No effect: {cause}.").format(cause="do_sample is false")
    if name in ("top_k", "top_p", "seed") and params.greedy:
        cause = "do_sample is false" if params.do_sample is False else "temperature is 0"
        return _("No effect: {cause}.").format(cause=cause)
    if name in ("top_p", "seed") and params.top_k == 1:
        return _("No effect: {cause}.").format(cause="top_k is 1")
    if name == "max_length" and None not in (params.max_length, params.max_new_tokens):
        return _("The shorter of max_length and max_new_tokens ends a reply.")
    return ""


def shown(value: Value) -> str:
    """A value as it is typed: "0.7", "true", "" for None."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)


class SettingRow(Widget):
    """One setting: its name, its field, and a line of help that gives way to what is wrong."""

    class Changed(Message):
        """The field holds another valid value; None is the model's own."""

        def __init__(self, name: str, value: Value) -> None:
            super().__init__()
            self.name = name
            self.value = value

    def __init__(self, setting: Setting) -> None:
        super().__init__(classes="tall" if setting.name == SYSTEM else None)
        self.setting = setting
        self._help = _(setting.help)
        self._line = Static(self._help, markup=False, classes="help")
        self.field = TextArea() if setting.name == SYSTEM else Input()
        self.field.compact = True
        self.field.cursor_blink = False
        if isinstance(self.field, TextArea):
            self.field.highlight_cursor_line = False
        self._known: Value = None  # as told or posted last
        self._note = self._error = ""
        self._explained = self._help

    def compose(self) -> ComposeResult:
        """Name, field, help."""
        yield Static(self.setting.name, markup=False, classes="name")
        yield self.field
        yield self._line

    @property
    def text(self) -> str:
        """What is typed."""
        return self.field.value if isinstance(self.field, Input) else self.field.text

    def tell(self, value: Value, default: Value, note: str) -> None:
        """Shows a value that changed elsewhere; `default` stands where the field is empty."""
        own = shown(default) or _("as the model")
        if isinstance(self.field, Input):
            self.field.placeholder = own
        else:
            self.field.placeholder = Content(own)
        if value != self._known:
            self._known = value
            if isinstance(self.field, Input):
                self.field.value = shown(value)
            else:
                self.field.text = shown(value)
        self._note = note
        self._explain()

    @on(Input.Changed)
    @on(TextArea.Changed)
    def _check(self, event: Message) -> None:
        event.stop()
        try:
            value = self._parsed()
        except ConfigError as error:
            self._error = error.message
        else:
            self._error = ""
            if value != self._known:
                self._known = value
                self.post_message(self.Changed(self.setting.name, value))
        self._explain()

    def _parsed(self) -> Value:
        text = sanitize(self.text)
        return self.setting.parse(text) if text.strip() else None

    def _explain(self) -> None:
        self.set_class(bool(self._error), "-wrong")
        self.set_class(bool(self._note) and not self._error, "-idle")
        text = self._error or self._note or self._help
        if text != self._explained:
            self._explained = text
            self._line.update(Content(text))


class PresetRow(Widget):
    """The preset in force; naming another takes it on."""

    class Chosen(Message):
        """The name of a preset has been typed."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self) -> None:
        super().__init__()
        self.field = Input(placeholder=_("none"), compact=True)
        self.field.cursor_blink = False
        self._line = Static(markup=False, classes="help")
        self._known = ""
        self.read()

    def compose(self) -> ComposeResult:
        """Name, field, the presets there are."""
        yield Static(_("preset"), markup=False, classes="name")
        yield self.field
        yield self._line

    def read(self) -> None:
        """Reads which there are."""
        self._presets, _problems = presets.load_presets()
        self.field.suggester = SuggestFromList(self._presets, case_sensitive=False)
        self._line.update(Content(", ".join(self._presets)))

    def tell(self, params: SamplingParams) -> None:
        """Shows which one these values are, unless a name is being typed."""
        name = presets.preset_name(params, self._presets)
        if name != self._known or not self.field.has_focus:
            self._known = name
            with self.field.prevent(Input.Changed):
                self.field.value = name

    @on(Input.Changed)
    def _choose(self, event: Input.Changed) -> None:
        event.stop()
        if event.value in self._presets and event.value != self._known:
            self._known = event.value
            self.post_message(self.Chosen(event.value))


class SettingsPanel(VerticalScroll, can_focus=False):
    """The rows, one below the other."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.command('settings')", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down,enter", "app.focus_next", show=False),
    ]

    def __init__(self, classes: str = "") -> None:
        super().__init__(classes=classes)
        self.preset = PresetRow()
        self.rows = tuple(
            SettingRow(setting) for setting in (*SAMPLING_FIELDS, find_setting(SYSTEM))
        )

    def compose(self) -> ComposeResult:
        """A heading and the rows."""
        yield Static(_("Settings, from the next reply on"), markup=False, classes="heading")
        yield self.preset
        yield from self.rows

    def focus_first(self) -> None:
        """Puts the cursor into the first field."""
        self.rows[0].field.focus()

    def tell(self, params: SamplingParams, system: str | None, defaults: SamplingParams) -> None:
        """Shows the values of a conversation, and beside them the model's own."""
        self.preset.tell(params)
        in_force = params.over(defaults)
        for row in self.rows:
            name = row.setting.name
            if name == SYSTEM:
                row.tell(system, None, "")
            else:
                note = without_effect(name, in_force)
                row.tell(getattr(params, name), getattr(defaults, name), note)
