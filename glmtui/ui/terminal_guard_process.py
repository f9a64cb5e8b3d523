"""The process that puts the terminal right when the app ends without doing so.

Run as a file, with nothing but the standard library: ``python terminal_guard_process.py JSON``.
Its stdin is a pipe that only the app writes to, and that ends when the app does, however it ends:
a signal that cannot be caught, or an abort in native code, runs no Python. Lines of JSON say
whether the terminal is the app's; other lines are what faulthandler tells of a crash. stdout is
the terminal, stderr the log.
"""

import json
import os
import re
import signal
import sys
import termios
from contextlib import suppress

MOST_SECONDS = 5  # for a terminal that takes nothing, such as one stopped with Ctrl+S

# Ends a sequence that was cut short, and takes back what Textual's LinuxDriver asks for, and the
# protocols that it turns on when the terminal answers. The kitty keyboard's stack belongs to the
# alternate screen, so it is popped before that is left.
RESTORE = (
    "\x18\x1b\\\x1b[?2026l\x1b[?2004l\x1b[?7h\x1b[?2048l"
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"
    "\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l\x1b[0m"
)


def main() -> None:
    """Waits for the app to end."""
    told = json.loads(sys.argv[1])  # attributes as they were before the app, and what to say
    raw, crash = None, list[str]()
    for line in sys.stdin:
        try:
            raw = json.loads(line)["raw"]
        except (ValueError, TypeError, KeyError):
            crash.append(line)
    if raw is None:  # it had given the terminal back
        return
    signal.alarm(MOST_SECONDS)
    with suppress(OSError):
        _write(RESTORE)
    with suppress(termios.error):
        if attributes(1) == raw:  # nobody has set others since, as a shell does
            termios.tcflush(1, termios.TCIFLUSH)  # such as reports of a mouse that moved on
            termios.tcsetattr(1, termios.TCSANOW, told["attributes"])
    kind = re.match("Fatal Python error: (.*)", "".join(crash[:1]))
    line = told["crashed"].replace("{what}", kind[1]) if kind else told["killed"]
    with suppress(OSError):
        _write(f"{line}\r\n")
    sys.stderr.writelines(crash)


def attributes(descriptor: int) -> list[object]:
    """A terminal's attributes, as JSON can carry them and ``tcsetattr`` takes them."""
    *flags, characters = termios.tcgetattr(descriptor)
    return [*flags, [c if isinstance(c, int) else c[0] for c in characters]]


def _write(text: str) -> None:
    data = text.encode("utf-8", "replace")
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
