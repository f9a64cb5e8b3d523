"""The process that puts the terminal right when the app ends without doing so.

Run as a file, with the terminal's attributes before the app and what to say when the app was
killed and when it crashed. Its stdin is a pipe that only the app writes to, and that ends when the
app does, however it ends: a signal that cannot be caught, or an abort in native code, runs no
Python. A line that begins with `TAKEN` or `GIVEN_BACK` says whose the terminal is; other lines are
what faulthandler tells of a crash. stdout is the terminal, stderr the log.

Imports little: it starts beside the app, and should take nothing from its start.
"""

import os
import signal
import sys
import termios

TAKEN, GIVEN_BACK = "\x01", "\x02"

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
    before, killed, crashed = sys.argv[1:]
    raw, crash = "", list[str]()
    for line in sys.stdin:
        if line.startswith(TAKEN):
            raw = line[1:].strip()
        elif line.startswith(GIVEN_BACK):
            raw = ""
        else:
            crash.append(line)
    if not raw:
        return
    signal.alarm(MOST_SECONDS)
    _write(RESTORE)
    try:
        if attributes(1) == raw:  # nobody has set others since, as a shell does
            termios.tcflush(1, termios.TCIFLUSH)  # such as reports of a mouse that moved on
            numbers = [int(number) for number in before.split()]
            flags: list[int | list[int]] = [*numbers[:6]]
            termios.tcsetattr(1, termios.TCSANOW, [*flags, numbers[6:]])
    except termios.error:  # the terminal has gone
        pass
    _begin, fatal, what = "".join(crash[:1]).partition("Fatal Python error: ")
    _write((crashed.replace("{what}", what.strip()) if fatal else killed) + "\r\n")
    sys.stderr.writelines(crash)
    sys.stderr.flush()


def attributes(descriptor: int) -> str:
    """A terminal's attributes: six numbers of flags and speeds, and its control characters."""
    *flags, characters = termios.tcgetattr(descriptor)
    return " ".join(map(str, [*flags, *(c if isinstance(c, int) else c[0] for c in characters)]))


def _write(text: str) -> None:
    """Writes to the terminal, if it is still there."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        pass


if __name__ == "__main__":
    main()
    os._exit(0)  # the app waits for it
