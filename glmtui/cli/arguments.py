"""The arguments of the command line: options, subcommands and their help."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from glmtui import __version__
from glmtui.cli import bench, subcommands
from glmtui.errors import ConfigError
from glmtui.language import _

if TYPE_CHECKING:
    from glmtui.config.setting_type import Value


def parse_arguments(argv: list[str] | None) -> Namespace:
    """The parsed arguments; `run` is the function of the subcommand or of the app.

    Raises SystemExit after printing an error or the help, as argparse does.
    """
    parser = ArgumentParser(
        prog="glmtui",
        description="Chat with GLM models on this machine. Without a command, the app starts.",
    )
    parser.add_argument("--version", action="version", version=f"glmtui {__version__}")
    _add_model_and_settings(parser, "settings")
    conversation = parser.add_mutually_exclusive_group()
    conversation.add_argument(
        "--continue",
        dest="open",
        action="store_const",
        const="last",
        help="open the last conversation",
    )
    conversation.add_argument("--open", metavar="ID", help="open a saved conversation")
    parser.add_argument("--config", type=Path, metavar="FILE", help="use this settings file")
    parser.set_defaults(run=subcommands.app, command=None, more_settings=[])
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")

    def command(name: str, run: Callable[[Namespace], int], help_line: str) -> ArgumentParser:
        subparser = commands.add_parser(name, help=help_line, description=help_line)
        subparser.set_defaults(run=run)
        return subparser

    ask = command("ask", subcommands.ask, "print the reply to one question")
    _add_model_and_settings(ask, "more_settings")
    ask.add_argument("--system", metavar="TEXT", help="system prompt")
    ask.add_argument("--json", action="store_true", help="print text, ids and statistics as JSON")
    ask.add_argument(
        "--strip", action="store_true", help="make control characters visible, also in a pipe"
    )
    ask.add_argument(
        "question", nargs="*", metavar="QUESTION", help="text from a pipe is added below it"
    )

    pull = command("pull", subcommands.pull, "download a model, or prepare a GGUF file")
    pull.add_argument(
        "ref", metavar="MODEL", help="a known name, a hub name, a GGUF file or a folder"
    )
    slim = command("slim", subcommands.convert, "convert ChatGLM-6B to ChatGLM-6B-Slim")
    slim.add_argument("source", metavar="MODEL", help="a pulled model or a folder")
    slim.add_argument("target", type=Path, metavar="FOLDER", help="a new folder")
    quantize = command("quantize", subcommands.convert, "quantise a model to 4 or 8 bits")
    quantize.add_argument("source", metavar="MODEL", help="a pulled model or a folder")
    quantize.add_argument("target", type=Path, metavar="FOLDER", help="a new folder")
    quantize.add_argument("--bits", type=int, choices=(4, 8), default=4, help="default: 4")
    verify = command("verify", subcommands.verify, "check the files of a pulled model")
    verify.add_argument("ref", metavar="MODEL")
    command("models", subcommands.models, "list models and servers")
    command("list", subcommands.list_conversations, "list saved conversations")
    export = command(
        "export", subcommands.export, "print a saved conversation or write it to a file"
    )
    export.add_argument("id", metavar="ID", help='the start of its id, or "last"')
    export.add_argument(
        "--format", choices=("md", "json", "toml"), help="default: by the suffix of FILE, or md"
    )
    export.add_argument("-o", dest="file", type=Path, metavar="FILE", help="write to this file")
    import_ = command(
        "import", subcommands.import_conversation, "import a conversation from a file"
    )
    import_.add_argument(
        "file", type=Path, metavar="FILE", help="exported TOML or JSON, or OpenAI messages"
    )
    command("config", subcommands.config, "print the settings file and its location")
    benchmark = command("bench", subcommands.bench, "measure the speed of a model")
    _add_model_and_settings(benchmark, "more_settings")
    bench.add_arguments(benchmark)
    doctor = command("doctor", subcommands.doctor, "check this machine and the installation")
    doctor.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="write a bug report with logs, without private data",
    )

    args = parser.parse_args(argv)
    if args.command and args.open:
        parser.error(f"--continue and --open cannot be used with the command {args.command}")
    return args


def _add_model_and_settings(parser: ArgumentParser, destination: str) -> None:
    """Adds -m and -s. -s before and after a command need lists of their own (`destination`)."""
    parser.add_argument(
        "-m",
        dest="model",
        type=_model,
        default=argparse.SUPPRESS,
        metavar="MODEL",
        help="a known name, hub name, folder, server name or server address",
    )
    parser.add_argument(
        "-s",
        dest=destination,
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting, such as temperature=0 or load.device=cpu; can be repeated",
    )


def _model(text: str) -> Value:
    return _assignment(f"model={text}")[1]


def _assignment(text: str) -> tuple[str, Value]:
    """The full name and the checked value of "name=value"."""
    from glmtui.config import find_setting

    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(
            _("{text!r} must have the form NAME=VALUE, such as temperature=0.7").format(text=text)
        )
    try:
        setting = find_setting(name.strip())
        return setting.full_name, setting.parse(value)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{error.message}. {error.hint}".strip()) from error
