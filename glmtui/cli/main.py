"""The entry point of the program: runs the command line and returns the exit code.

Exit codes: 0 success, 1 failure (an error message on stderr), 2 invalid command line, 130
interrupted by Ctrl+C, 141 the reader of the output has closed it.
"""

from __future__ import annotations

import os
import sys

from glmtui.cli.arguments import parse_arguments
from glmtui.cli.output import print_error, print_warnings, set_stream_options
from glmtui.errors import GlmtuiError, UsageError
from glmtui.language import set_language
from glmtui.system import paths


def main(argv: list[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    # Characters that the locale's encoding lacks are printed as "?".
    for stream in (sys.stdout, sys.stderr):
        set_stream_options(stream, errors="replace")
    paths.restrict_umask()
    set_language("auto")  # for errors that occur before the settings are read
    try:
        args = parse_arguments(argv)
        if args.command:  # the app displays warnings itself
            print_warnings()
        code: int = args.run(args)
        sys.stdout.flush()
    except SystemExit as leaving:  # argparse has printed its error or the help
        return leaving.code if isinstance(leaving.code, int) else 1
    except GlmtuiError as error:
        print_error(error)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout again at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:  # a panic in a Rust library is not an Exception
        from glmtui.logs import log_unexpected

        print_error(log_unexpected(error))
        return 1
    return code
