"""The process that restores the terminal if the app ends without doing so.

Needed because no Python runs in the app after SIGKILL or an abort in native code. Run as a file:

- arguments: the terminal's attributes before the app, and the messages after a kill and a crash
- stdin: a pipe from the app, which ends with the app. A line that begins with `ACQUIRED` or
  `RELEASED` tells who owns the terminal; other lines are faulthandler's report of a crash
- stdout: the terminal; stderr: the log

It imports little, so that it does not slow down the start of the app.
"""

import os
import signal
import sys
import termios

ACQUIRED, RELEASED = "\x01", "\x02"

MAX_SECONDS = 5  # until it gives up on a terminal that does not read, such as after Ctrl+S

# Ends a sequence that was cut short, and resets all modes that Textual's LinuxDriver sets, also
# those it sets only when the terminal supports them. The kitty keyboard stack belongs to the
# alternate screen, so it is popped before that is left.
RESTORE = (
    "\x18\x1b\\\x1b[?2026l\x1b[?2004l\x1b[?7h\x1b[?2048l"
    "\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l"
    "\x1b[<u\x1b[?1049l\x1b[?25h\x1b[?1004l\x1b[0m"
)


def main() -> None:
    before, killed, crashed = sys.argv[1:]
    app_attributes, report = "", list[str]()
    for line in sys.stdin:
        if line.startswith(ACQUIRED):
            app_attributes = line[1:].strip()
        elif line.startswith(RELEASED):
            app_attributes = ""
        else:
            report.append(line)
    if not app_attributes:
        return
    signal.alarm(MAX_SECONDS)
    _write(RESTORE)
    try:
        if attributes(1) == app_attributes:  # else a shell has already set its own
            termios.tcflush(1, termios.TCIFLUSH)  # drops mouse reports that nobody has read
            numbers = [int(number) for number in before.split()]
            flags: list[int | list[int]] = [*numbers[:6]]
            termios.tcsetattr(1, termios.TCSANOW, [*flags, numbers[6:]])
    except termios.error:  # the terminal is gone
        pass
    _before, fatal, what = "".join(report[:1]).partition("Fatal Python error: ")
    _write((crashed.replace("{what}", what.strip()) if fatal else killed) + "\r\n")
    sys.stderr.writelines(report)
    sys.stderr.flush()


def attributes(descriptor: int) -> str:
    """`tcgetattr` as a string of numbers: six flags and speeds, then the control characters."""
    *flags, characters = termios.tcgetattr(descriptor)
    return " ".join(map(str, [*flags, *(c if isinstance(c, int) else c[0] for c in characters)]))


def _write(text: str) -> None:
    """Writes to the terminal; ignores errors, as it may be gone."""
    data = text.encode("utf-8", "surrogateescape")
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        pass


if __name__ == "__main__":
    main()
    os._exit(0)  # skips the interpreter's shutdown, because the app waits
