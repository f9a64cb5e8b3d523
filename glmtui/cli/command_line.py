"""The command line: arguments in, exit code out. What a command needs is imported inside it.

Exit codes: 0 done, 1 it failed (one line on stderr says why), 2 the command line means nothing,
130 interrupted by Ctrl+C, 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from glmtui import __version__
from glmtui.cli import bench
from glmtui.errors import ConfigError, GlmtuiError, StoreError, UsageError
from glmtui.language import _, set_language
from glmtui.net.addresses import redact_credentials
from glmtui.system import paths

if TYPE_CHECKING:
    from glmtui.config import Settings
    from glmtui.config.schema import Value
    from glmtui.store import Store


def main(argv: list[str] | None = None) -> int:
    """Runs the program and returns its exit code."""
    # A locale that lacks a character shows "?" in its place.
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, errors="replace")
    paths.restrict_umask()
    set_language("auto")  # for what is wrong before the settings say another language
    try:
        args = _parse(argv)
        if args.command:  # the app has its own place for warnings
            _show_warnings()
        code: int = args.run(args)
        sys.stdout.flush()
    except SystemExit as leaving:  # argparse has said what there was to say
        return leaving.code if isinstance(leaving.code, int) else 1
    except GlmtuiError as error:
        _complain(error)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it ends; that must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:  # a panic in a Rust library is no Exception
        from glmtui.logs import log_unexpected

        _complain(log_unexpected(error))
        return 1
    return code


# ---- arguments


def _parse(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(
        prog="glmtui",
        description="Chat with GLM models that run on this machine. Without a command: the app.",
    )
    parser.add_argument("--version", action="version", version=f"glmtui {__version__}")
    _add_model_and_settings(parser, "settings")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--continue", dest="open", action="store_const", const="last", help="go on where you left"
    )
    which.add_argument("--open", metavar="ID", help="open a saved conversation")
    parser.add_argument("--config", type=Path, metavar="FILE", help="read these settings instead")
    parser.set_defaults(run=_app, command=None, more_settings=[])
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")

    def command(name: str, run: object, line: str) -> ArgumentParser:
        added = commands.add_parser(name, help=line, description=line)
        added.set_defaults(run=run)
        return added

    ask = command("ask", _ask, "print the reply to one question; a pipe is read below it")
    _add_model_and_settings(ask, "more_settings")
    ask.add_argument("--system", metavar="TEXT", help="the system prompt")
    ask.add_argument("--json", action="store_true", help="print text, ids and stats as JSON")
    ask.add_argument("--strip", action="store_true", help="show control characters, also in a pipe")
    ask.add_argument("question", nargs="*", metavar="PROMPT")

    pull = command("pull", _pull, "fetch a model: a known name, a hub id, or a folder")
    pull.add_argument("ref", metavar="REF")
    slim = command("slim", _remake, "make ChatGLM-6B-Slim out of ChatGLM-6B")
    slim.add_argument("source", metavar="SRC", help="a folder or a pulled model")
    slim.add_argument("target", type=Path, metavar="DST", help="a new folder")
    packed = command("quantize", _remake, "write a model in 4 or 8 bits, to load as it is")
    packed.add_argument("source", metavar="SRC", help="a folder or a pulled model")
    packed.add_argument("target", type=Path, metavar="DST", help="a new folder")
    packed.add_argument("--bits", type=int, choices=(4, 8), default=4, help="default: 4")
    checked = command("verify", _verify, "check a pulled model's files against their checksums")
    checked.add_argument("ref", metavar="MODEL")
    command("models", _models, "list models and servers")
    command("list", _list, "list saved conversations")
    export = command("export", _export, "print a saved conversation, or write it to a file")
    export.add_argument("id", metavar="ID", help='the beginning of its id, or "last"')
    export.add_argument("--format", choices=("md", "json", "toml"), help="as FILE ends, else md")
    export.add_argument("-o", dest="file", type=Path, metavar="FILE")
    taken_in = command("import", _import, "take in a conversation: TOML, JSON, or OpenAI messages")
    taken_in.add_argument("file", type=Path, metavar="FILE")
    command("config", _config, "print the settings file in force, and where it is")
    measured = command("bench", _bench, "measure a model's speed here, alone or against others")
    _add_model_and_settings(measured, "more_settings")
    bench.add_arguments(measured)
    look = command("doctor", _doctor, "say what works on this machine, what does not, what to do")
    look.add_argument(
        "--bundle", type=Path, metavar="FILE", help="write it to FILE with logs, private words out"
    )

    args = parser.parse_args(argv)
    if args.command and args.open:
        parser.error(f"--continue and --open are for the app, not for {args.command}")
    return args


def _add_model_and_settings(parser: ArgumentParser, destination: str) -> None:
    """-m and -s; the values of -s go to a list of their own, as a command's would replace them."""
    parser.add_argument(
        "-m",
        dest="model",
        type=_model,
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help="a known name, a hub id, a folder, http://HOST:PORT/v1, or a server's name",
    )
    parser.add_argument(
        "-s",
        dest=destination,
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting, such as temperature=0 or load.device=cpu; may be repeated",
    )


def _model(text: str) -> Value:
    return _assignment(f"model={text}")[1]


def _assignment(text: str) -> tuple[str, Value]:
    """The name and the checked value in "name=value"."""
    from glmtui.config import find_setting

    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(
            _("{text!r} has no =; write it as temperature=0.7").format(text=text)
        )
    try:
        row = find_setting(name.strip())
        return row.full_name, row.parse(value)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{error.message}. {error.hint}".strip()) from error


def _settings(args: Namespace) -> tuple[Settings, list[ConfigError]]:
    from glmtui import config

    if args.config and not args.config.exists():
        raise UsageError(
            _("there is no file {path}").format(path=args.config),
            _("--config names a settings file."),
        )
    overrides = dict(args.settings + args.more_settings)
    if "model" in args:
        overrides["model"] = args.model
    if getattr(args, "system", None) is not None:
        overrides["system_prompt"] = args.system
    settings, problems = config.load_settings(args.config, overrides=overrides)
    set_language(settings.language)
    return settings, problems


def _settings_or_complaints(args: Namespace) -> Settings:
    """The settings; what is wrong with them goes to stderr and stops nothing."""
    settings, problems = _settings(args)
    for problem in problems:
        _complain(problem)
    return settings


# ---- commands


def _app(args: Namespace) -> int:
    if not _is_terminal(sys.stdin):
        raise UsageError(
            _("the app needs a terminal, and this is none"),
            _("For one question and one reply: glmtui ask 'Why is the sky blue?'"),
        )
    gc.disable()  # until the first paint: what is imported is not garbage
    from glmtui.ui.launch import run

    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, encoding="utf-8")  # Textual writes it whatever the locale says
    settings, problems = _settings(args)
    return run(settings, problems, open_conversation=args.open, model_asked="model" in args)


def _ask(args: Namespace) -> int:
    from glmtui.cli.ask import ask, read_question

    settings = _settings_or_complaints(args)
    return ask(read_question(args.question), settings, as_json=args.json, strip=args.strip)


def _pull(args: Namespace) -> int:
    from glmtui.cli.progress import ProgressLine
    from glmtui.cli.tables import pulled_message
    from glmtui.engine.pull import pull

    settings = _settings_or_complaints(args)
    with ProgressLine() as line:
        info = pull(args.ref, endpoint=settings.endpoint, on_progress=line)
    _print(pulled_message(info))
    return 0


def _verify(args: Namespace) -> int:
    from glmtui.cli.progress import ProgressLine
    from glmtui.engine.pull import verify

    _settings_or_complaints(args)
    with ProgressLine() as line:
        found = verify(args.ref, line)
    _print(found)
    return 0


def _remake(args: Namespace) -> int:
    from glmtui.cli import convert

    _settings_or_complaints(args)
    try:
        _print(convert.convert_model(args))
    except convert.Interrupted as error:
        _complain(error)
        return 130
    return 0


def _models(args: Namespace) -> int:
    from glmtui.cli import tables
    from glmtui.engine.catalog import resolver
    from glmtui.engine.catalog.registry import MODELS
    from glmtui.engine.hardware import machine

    servers = _settings_or_complaints(args).servers
    _print(tables.models_table(resolver.installed_models(), MODELS, machine.snapshot(), _columns()))
    if servers:
        _print("\n" + tables.servers_table(servers, _columns()))
    return 0


def _list(args: Namespace) -> int:
    from glmtui.cli import tables

    store = _store(args)
    summaries = store.summaries()
    for problem in store.problems:
        _complain(problem)
    if summaries:
        _print(tables.conversations_table(summaries, _columns()))
    else:
        _print(f"There are no saved conversations in {store.folder}.")
    return 0


def _export(args: Namespace) -> int:
    from glmtui.store import dumps, to_markdown
    from glmtui.system.durable_files import encode_utf8, replace_file

    conversation = _store(args).load(args.id)
    ending = args.file.suffix[1:] if args.file else ""
    file_format = args.format or (ending if ending in ("json", "toml") else "md")
    if file_format == "md":
        text = to_markdown(conversation)
    else:
        text = dumps(conversation, "json" if file_format == "json" else "toml")
    if args.file is None:
        _print(text.rstrip("\n"))
    else:
        try:
            replace_file(args.file, encode_utf8(text))
        except OSError as error:
            raise StoreError(
                _("cannot write {path}: {reason}").format(path=args.file, reason=error.strerror)
            ) from error
    return 0


def _import(args: Namespace) -> int:
    from glmtui.store import read_file

    store = _store(args)
    conversation = read_file(args.file)
    path = store.save(conversation)
    store.close()
    _print(f"{path}\nOpen it with: glmtui --open {conversation.id}")
    return 0


def _config(args: Namespace) -> int:
    from glmtui import config
    from glmtui.config import example

    _in_force, problems = _settings(args)
    path = args.config or config.config_file()
    for row in config.SETTINGS:
        if os.environ.get(row.variable):
            _print(f"# {row.variable} in the environment overrides {row.full_name}")
    if path.exists():
        with contextlib.suppress(OSError):  # `problems` says so
            _print(redact_credentials(f"# {path}\n{path.read_text('utf-8', 'replace').rstrip()}"))
    else:
        _print(f"# {path} is not there yet. It could say:")
        _print(f"\n{example.example_toml().rstrip()}")
    for problem in problems:
        _complain(problem)
    return 1 if problems else 0


def _doctor(args: Namespace) -> int:
    from glmtui.cli import doctor

    settings, problems = _settings(args)
    found = []
    for finding in doctor.run_checks(settings, problems):
        _print(finding.text)
        found.append(finding)
    if args.bundle:
        from glmtui.cli import bug_report

        bug_report.write_report(args.bundle, found, settings)
        _print(f"Written to {args.bundle}; look through it before you send it.")
    return 1 if any(finding.level == "fail" for finding in found) else 0


def _bench(args: Namespace) -> int:
    _print(bench.run_bench(args, _settings_or_complaints(args)))
    return 0


def _store(args: Namespace) -> Store:
    from glmtui.store import Store

    settings = _settings_or_complaints(args)
    return Store(paths.data_dir() / "conversations", settings.format)


# ---- streams


def _print(text: str) -> None:
    """Prints to stdout; to a terminal only what is safe for one."""
    from glmtui.sanitize import sanitize

    print(sanitize(text) if _is_terminal(sys.stdout) else text, flush=True)


def _complain(error: GlmtuiError) -> None:
    from glmtui.sanitize import sanitize

    hint = f"\n  {error.hint}" if error.hint else ""
    print(sanitize(f"glmtui: {error.message}{hint}"), file=sys.stderr)


def _show_warnings() -> None:
    """What the parts log as a warning goes to stderr, as our own complaints do."""
    import logging

    class Complaints(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            _complain(GlmtuiError(record.getMessage()))

    logging.basicConfig(level=logging.WARNING, handlers=[Complaints()])


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _reconfigure(stream: TextIO, **how: str) -> None:
    # A stand-in for a stream (in a test, in a notebook) has no encoding to change.
    if reconfigure := getattr(stream, "reconfigure", None):
        reconfigure(**how)
