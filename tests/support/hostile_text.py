"""Text that would control a terminal or mislead its reader, and detection of its effects."""

from __future__ import annotations

import re
import unicodedata

ESC, BEL, ST, CSI, OSC, DCS = "\x1b", "\x07", "\x1b\\", "\x9b", "\x9d", "\x90"

# Each attack contains a marker that no program writes by itself.
ATTACKS: dict[str, str] = {
    "colour": f"{ESC}[38;5;201;7777m",
    "clear": f"{ESC}[2J{ESC}[7777H",
    "title": f"{ESC}]0;evil-title{BEL}",
    "link": f"{ESC}]8;;http://evil.example{ST}click{ESC}]8;;{ST}",
    "clipboard": f"{ESC}]52;c;ZXZpbA=={BEL}",
    "device": f"{ESC}P$q evil-dcs{ST}",
    "private": f"{ESC}_evil-apc{ST}{ESC}^evil-pm{ST}",
    "answer": f"{ESC}[c{ESC}[7777n{ESC}[>q",
    "screen": f"{ESC}[?7777h{ESC}c",
    "c1": f"{CSI}7777m{OSC}0;evil-c1{BEL}{DCS}evil{ST}",
    "c0": "a\x08\x08b\x00c\x0bd\x0ce\x0ef\x0fg\x07h\x7fi\rj",
    "bidi": "user\u202enimda\u202c \u2066evil\u2069",
    "hidden": "pay\u200bpal\u2060 \U000e0065\U000e0076 \ufeffx",
}
ALL = " ".join(f"<{name}:{text}>" for name, text in ATTACKS.items())
MARKUP = "[bold red]loud[/] [link=http://evil.example]here[/link] [/] [@click=app.quit]x[/]"

# Everything that Textual itself writes: cursor, erasing, colours, modes, capability queries, the
# shape of the mouse pointer (OSC 22), and web links with a number from Textual (OSC 8).
_OURS = re.compile(
    rb"\x1b\[(?P<arguments>[0-9;:<=>?]*)(?P<middle>[ $]?)(?P<final>[@A-Za-z])"
    rb"|\x1b[78=>]|\x1b\([B0]|\x1b\]22;[a-z-]*\x07"
    rb"|\x1b\]8;id=[0-9-]+;(?:https?://|mailto:)[!-~]+\x1b\\|\x1b\]8;;\x1b\\"
)
_HARMLESS = b"ABCDHJKhlmprtuqSTcn"


def control_effects(output: bytes) -> list[str]:
    """Describe everything in a terminal's input that glmtui itself would never write."""
    found = []
    for code in _OURS.finditer(output):
        final = code["final"]
        if final is not None and (final not in _HARMLESS or b"7777" in code["arguments"]):
            found.append(f"sequence {code.group()!r}")
    for char in sorted(set(_OURS.sub(b"", output).decode("utf-8", "backslashreplace"))):
        if char in "\n\r\t":
            continue
        if unicodedata.category(char) in ("Cc", "Cs") or _is_misleading(char):
            found.append(f"character {char!r}")
    return found


def _is_misleading(char: str) -> bool:
    return (
        char in "\u200b\u2060\ufeff"
        or char >= "\U000e0000"
        or unicodedata.bidirectional(char)
        in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    )
