"""The subcommands and the start of the app: one function each, from arguments to exit code.

What a subcommand needs is imported inside its function, so that each starts fast.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from glmtui.cli.output import (
    is_terminal,
    print_error,
    print_text,
    set_stream_options,
    terminal_width,
)
from glmtui.errors import ConfigError, StoreError, UsageError
from glmtui.language import _, set_language
from glmtui.net.addresses import redact_credentials
from glmtui.system import paths

if TYPE_CHECKING:
    from glmtui.config import Settings
    from glmtui.store import Store


def app(args: Namespace) -> int:
    if not is_terminal(sys.stdin):
        raise UsageError(
            _("The app needs a terminal."),
            _("For a single question, use: glmtui ask 'Why is the sky blue?'"),
        )
    gc.disable()  # until the first paint: imported modules are not garbage
    from glmtui.ui.launch import run

    for stream in (sys.stdout, sys.stderr):
        set_stream_options(stream, encoding="utf-8")  # Textual writes UTF-8 in every locale
    settings, problems = _load_settings(args)
    return run(settings, problems, open_conversation=args.open, model_asked="model" in args)


def ask(args: Namespace) -> int:
    from glmtui.cli.ask import ask, read_question

    settings = _settings(args)
    return ask(read_question(args.question), settings, as_json=args.json, strip=args.strip)


# ---- models


def pull(args: Namespace) -> int:
    from glmtui.cli.progress import ProgressLine
    from glmtui.cli.text_tables import pulled_message
    from glmtui.engine.pull import pull

    settings = _settings(args)
    with ProgressLine() as line:
        info = pull(args.ref, endpoint=settings.endpoint, on_progress=line)
    print_text(pulled_message(info))
    return 0


def verify(args: Namespace) -> int:
    from glmtui.cli.progress import ProgressLine
    from glmtui.engine.pull import verify

    _settings(args)
    with ProgressLine() as line:
        result = verify(args.ref, line)
    print_text(result)
    return 0


def convert(args: Namespace) -> int:
    """``slim`` and ``quantize``."""
    from glmtui.cli.convert import Interrupted, convert_model

    _settings(args)
    try:
        print_text(convert_model(args))
    except Interrupted as error:
        print_error(error)
        return 130
    return 0


def models(args: Namespace) -> int:
    from glmtui.cli import text_tables
    from glmtui.engine.catalog.known_models import MODELS
    from glmtui.engine.catalog.resolver import installed_models
    from glmtui.engine.hardware import machine

    servers, width = _settings(args).servers, terminal_width()
    print_text(text_tables.models_table(installed_models(), MODELS, machine.snapshot(), width))
    if servers:
        print_text("\n" + text_tables.servers_table(servers, width))
    return 0


def bench(args: Namespace) -> int:
    from glmtui.cli.bench import run_bench

    print_text(run_bench(args, _settings(args)))
    return 0


# ---- conversations


def list_conversations(args: Namespace) -> int:
    from glmtui.cli import text_tables

    store = _store(args)
    summaries = store.summaries()
    for problem in store.problems:
        print_error(problem)
    if summaries:
        print_text(text_tables.conversations_table(summaries, terminal_width()))
    else:
        print_text(f"No saved conversations in {store.folder}.")
    return 0


def export(args: Namespace) -> int:
    from glmtui.store import dumps, to_markdown
    from glmtui.system.durable_files import encode_utf8, replace_file

    conversation = _store(args).load(args.id)
    suffix = args.file.suffix[1:] if args.file else ""
    file_format = args.format or (suffix if suffix in ("json", "toml") else "md")
    if file_format == "md":
        text = to_markdown(conversation)
    else:
        text = dumps(conversation, "json" if file_format == "json" else "toml")
    if args.file is None:
        print_text(text.rstrip("\n"))
    else:
        try:
            replace_file(args.file, encode_utf8(text))
        except OSError as error:
            raise StoreError(
                _("Could not write {path}: {reason}").format(path=args.file, reason=error.strerror)
            ) from error
    return 0


def import_conversation(args: Namespace) -> int:
    from glmtui.store import read_file

    store = _store(args)
    conversation = read_file(args.file)
    path = store.save(conversation)
    store.close()
    print_text(f"Saved as {path}.\nOpen it with: glmtui --open {conversation.id}")
    return 0


def _store(args: Namespace) -> Store:
    from glmtui.store import Store

    return Store(paths.data_dir() / "conversations", _settings(args).format)


# ---- settings and checks


def config(args: Namespace) -> int:
    from glmtui.config import SETTINGS, config_file
    from glmtui.config.example import example_toml

    _loaded, problems = _load_settings(args)
    path = args.config or config_file()
    for setting in SETTINGS:
        if os.environ.get(setting.variable):
            print_text(
                f"# The environment variable {setting.variable} overrides {setting.full_name}."
            )
    if path.exists():
        with contextlib.suppress(OSError):  # reported in `problems`
            text = path.read_text("utf-8", "replace").rstrip()
            print_text(redact_credentials(f"# {path}\n{text}"))
    else:
        print_text(f"# {path} does not exist. An example:")
        print_text(f"\n{example_toml().rstrip()}")
    for problem in problems:
        print_error(problem)
    return 1 if problems else 0


def doctor(args: Namespace) -> int:
    from glmtui.cli.doctor import run_checks

    settings, problems = _load_settings(args)
    results = []
    for result in run_checks(settings, problems):
        print_text(result.text)
        results.append(result)
    if args.bundle:
        from glmtui.cli.bug_report import write_report

        write_report(args.bundle, results, settings)
        print_text(f"Report written to {args.bundle}. Check it for private data before sending it.")
    return 1 if any(result.level == "fail" for result in results) else 0


def _load_settings(args: Namespace) -> tuple[Settings, list[ConfigError]]:
    """The settings with those of the arguments, and the errors in them; sets the language."""
    from glmtui.config import load_settings

    if args.config and not args.config.exists():
        raise UsageError(
            _("File not found: {path}").format(path=args.config),
            _("--config needs an existing settings file."),
        )
    overrides = dict(args.settings + args.more_settings)
    if "model" in args:
        overrides["model"] = args.model
    if getattr(args, "system", None) is not None:
        overrides["system_prompt"] = args.system
    settings, problems = load_settings(args.config, overrides=overrides)
    set_language(settings.language)
    return settings, problems


def _settings(args: Namespace) -> Settings:
    """The settings; errors in them are printed to stderr and are not fatal."""
    settings, problems = _load_settings(args)
    for problem in problems:
        print_error(problem)
    return settings
