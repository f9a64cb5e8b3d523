"""SettingsPanel: sampling parameters and system prompt, validated while the user types.

The rows are made from the settings' declarations in `glmtui.config`. An empty field stands for the
model's default. The panel shows the values it is given and posts messages about changes.
"""

from __future__ import annotations

from collections.abc import Callable
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
from glmtui.config.setting_type import Setting, Value
from glmtui.errors import ConfigError
from glmtui.language import _
from glmtui.sanitize import sanitize

SYSTEM = "system_prompt"


def no_effect_reason(name: str, params: SamplingParams) -> str:
    """Why the sampling parameter `name` has no effect with the other values; "" if it has one.

    Args:
        params: the values in effect, with the model's defaults filled in.
    """
    if name == "temperature" and params.do_sample is False:
        return _("No effect: {cause}.").format(cause="do_sample is false")
    if name in ("top_k", "top_p", "seed") and params.greedy:
        cause = "do_sample is false" if params.do_sample is False else "temperature is 0"
        return _("No effect: {cause}.").format(cause=cause)
    if name in ("top_p", "seed") and params.top_k == 1:
        return _("No effect: {cause}.").format(cause="top_k is 1")
    if name == "max_length" and None not in (params.max_length, params.max_new_tokens):
        return _("The lower of max_length and max_new_tokens applies.")
    return ""


def format_value(value: Value) -> str:
    """A value as the user would type it: "0.7", "true", "" for None."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else f"{value:.15g}" if isinstance(value, float) else str(value)


class SettingRow(Widget):
    """One setting: its name, its field, and a help text, in whose place errors are shown."""

    class Changed(Message):
        """The user has typed another valid value; None is the model's default."""

        def __init__(self, name: str, value: Value) -> None:
            super().__init__()
            self.name = name
            self.value = value

    def __init__(self, setting: Setting) -> None:
        super().__init__(classes="tall" if setting.name == SYSTEM else None)
        self.setting = setting
        self._help = _(setting.help)
        self._help_line = Static(self._help, markup=False, classes="help")
        self.field = TextArea() if setting.name == SYSTEM else Input()
        self.field.compact = True
        self.field.cursor_blink = False
        if isinstance(self.field, TextArea):
            self.field.highlight_cursor_line = False
        self._value: Value = None  # the value that was last shown or posted
        self._note = self._error = ""
        self._shown_help = self._help

    def compose(self) -> ComposeResult:
        yield Static(self.setting.name, markup=False, classes="name")
        yield self.field
        yield self._help_line

    @property
    def text(self) -> str:
        return self.field.value if isinstance(self.field, Input) else self.field.text

    def show_value(self, value: Value, default: Value, note: str) -> None:
        """Shows a value that has changed elsewhere.

        Args:
            default: the model's default, shown while the field is empty.
            note: shown in place of the help, unless there is an error.
        """
        placeholder = _("model default")
        if default is not None:
            placeholder = _("{value} (model default)").format(value=format_value(default))
        if isinstance(self.field, Input):
            self.field.placeholder = placeholder
        else:
            self.field.placeholder = Content(placeholder)
        if value != self._value:
            self._value = value
            if isinstance(self.field, Input):
                self.field.value = format_value(value)
            else:
                self.field.text = format_value(value)
        self._note = note
        self._update_help()

    @on(Input.Changed)
    @on(TextArea.Changed)
    def _check(self, event: Message) -> None:
        event.stop()
        try:
            value = self._parse()
        except ConfigError as error:
            self._error = error.message
        else:
            self._error = ""
            if value != self._value:
                self._value = value
                self.post_message(self.Changed(self.setting.name, value))
        self._update_help()

    def _parse(self) -> Value:
        text = sanitize(self.text)
        return self.setting.parse(text) if text.strip() else None

    def _update_help(self) -> None:
        self.set_class(bool(self._error), "-invalid")
        self.set_class(bool(self._note) and not self._error, "-no-effect")
        text = self._error or self._note or self._help
        if text != self._shown_help:
            self._shown_help = text
            self._help_line.update(Content(text))


class PresetRow(Widget):
    """The preset whose values are in effect. Typing the name of another one applies it."""

    class Chosen(Message):
        """The user has typed the name of a preset."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self) -> None:
        super().__init__()
        self.field = Input(placeholder=_("none"), compact=True)
        self.field.cursor_blink = False
        self._help_line = Static(markup=False, classes="help")
        self._preset_name = ""
        self.reload()

    def compose(self) -> ComposeResult:
        yield Static(_("preset"), markup=False, classes="name")
        yield self.field
        yield self._help_line

    def reload(self) -> None:
        """Reads the presets from disk."""
        self._presets, _problems = presets.load_presets()
        self.field.suggester = SuggestFromList(self._presets, case_sensitive=False)
        self._help_line.update(Content(", ".join(self._presets)))

    def show_params(self, params: SamplingParams) -> None:
        """Shows the name of the preset with these values, unless the user is typing one."""
        name = presets.preset_name(params, self._presets)
        if name != self._preset_name or not self.field.has_focus:
            self._preset_name = name
            with self.field.prevent(Input.Changed):
                self.field.value = name

    @on(Input.Changed)
    def _choose(self, event: Input.Changed) -> None:
        event.stop()
        if event.value in self._presets and event.value != self._preset_name:
            self._preset_name = event.value
            self.post_message(self.Chosen(event.value))


class SettingsPanel(VerticalScroll, can_focus=False):
    """The rows of all settings.

    Args:
        on_value: called with the name and the new value of a setting when the user has typed a
            valid one; None is the model's default.
        on_preset: called with the name of a preset when the user has typed one.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.command('settings')", show=False),
        Binding("up", "app.focus_previous", show=False),
        Binding("down,enter", "app.focus_next", show=False),
    ]

    def __init__(
        self,
        on_value: Callable[[str, Value], None],
        on_preset: Callable[[str], None],
        classes: str = "",
    ) -> None:
        super().__init__(classes=classes)
        self._on_value = on_value
        self._on_preset = on_preset
        self.preset = PresetRow()
        self.rows = tuple(
            SettingRow(setting) for setting in (*SAMPLING_FIELDS, find_setting(SYSTEM))
        )

    def compose(self) -> ComposeResult:
        yield Static(_("Settings (apply from the next reply)"), markup=False, classes="heading")
        yield self.preset
        yield from self.rows

    @on(SettingRow.Changed)
    def _apply_value(self, event: SettingRow.Changed) -> None:
        event.stop()
        self._on_value(event.name, event.value)

    @on(PresetRow.Chosen)
    def _apply_preset(self, event: PresetRow.Chosen) -> None:
        event.stop()
        self._on_preset(event.name)

    def focus_first(self) -> None:
        """Focuses the first field."""
        self.rows[0].field.focus()

    def show_values(
        self, params: SamplingParams, system: str | None, defaults: SamplingParams
    ) -> None:
        """Shows the values of a conversation and the model's defaults."""
        self.preset.show_params(params)
        effective = params.with_defaults(defaults)
        for row in self.rows:
            name = row.setting.name
            if name == SYSTEM:
                row.show_value(system, None, "")
            else:
                note = no_effect_reason(name, effective)
                row.show_value(getattr(params, name), getattr(defaults, name), note)
