"""A working folder with hostile files: none of them is run.

The folder holds modules and programs under the names that we and our children look for; each
leaves a mark when it is run or imported.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glmtui.engine.bench.bench_engine import BenchTarget
from glmtui.engine.bench.engine_process import EngineProcess
from glmtui.engine.model_info import LoadOptions
from glmtui.engine.tokenization.template_renderer import TemplateRenderer
from glmtui.errors import GlmtuiError
from glmtui.system.programs import find_program, remove_working_folder_from_path
from glmtui.ui.terminal import clipboard, editor

ROOT = Path(__file__).parents[2]
MODULES = (
    *("pip", "sitecustomize", "usercustomize", "torch", "numpy", "transformers", "jinja2"),
    *("huggingface_hub", "httpx", "json", "argparse", "multiprocessing", "pickle", "textual"),
    *("safetensors", "platformdirs", "psutil", "tomli", "typing_extensions", "pynvml", "gguf"),
)
PROGRAMS = ("cc", "gcc", "clang", "uv", "pip", "vi", "nano", "xclip", "pbcopy", "nvidia-smi", "git")


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file where hostile programs write their names; the folder is the working folder."""
    marks, folder = tmp_path / "marks", tmp_path / "folder"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(marks)!r}, 'a').write('module {name}\\n')\n")
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho program {name} >> {marks}\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.chdir(folder)
    return marks


def glmtui(tmp_path: Path, *argv: str, python: tuple[str, ...], **environ: str) -> None:
    """Run glmtui in the hostile folder, with folders of its own and no package index."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "PYTHON"))},
        "PYTHONPATH": str(ROOT),
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_RETRIES": "0",
        "UV_DEFAULT_INDEX": "http://127.0.0.1:9/",
        **{
            f"GLMTUI_{name}_DIR": str(tmp_path / name)
            for name in ("CACHE", "DATA", "CONFIG", "STATE")
        },
        **environ,
    }
    command = [sys.executable, *python, *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


# Like the console script: its own folder comes first on sys.path, not the working folder.
SCRIPT = (
    "-c",
    "import sys; del sys.path[0]; from glmtui.cli.main import main; sys.exit(main())",
)
MODULE = ("-m", "glmtui")


@pytest.mark.parametrize("started", [SCRIPT, MODULE], ids=["script", "module"])
def test_pulling_a_package(marks: Path, tmp_path: Path, started: tuple[str, ...]) -> None:
    path = os.pathsep.join((".", "", os.environ["PATH"]))
    glmtui(tmp_path, "pull", "smollm2", python=started, PATH=path)
    assert not marks.exists(), marks.read_text()


def test_the_program_as_a_module(marks: Path, tmp_path: Path) -> None:
    glmtui(tmp_path, "models", python=MODULE)
    assert not marks.exists(), marks.read_text()


def test_a_chat_template(marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("")
    assert TemplateRenderer("{{ x }}").render({"x": "y"}) == "y"
    assert not marks.exists(), marks.read_text()


def test_an_engine_that_is_measured(marks: Path) -> None:
    here = Path.cwd()
    target = BenchTarget("glmtui", None, "no such shape", LoadOptions(), 1)
    with contextlib.suppress(GlmtuiError), EngineProcess(target) as worker:
        worker.load()
    assert not marks.exists(), marks.read_text()
    assert Path.cwd() == here


@pytest.mark.parametrize("path", [".", "", "::", "folder"])
def test_programs_of_our_choice(marks: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("PATH", path)
    for variable in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(variable, raising=False)
    assert all(find_program(name) is None for name in PROGRAMS)
    assert editor.editor_command() == []
    assert clipboard.clipboard_tools({"PATH": path, "DISPLAY": ":0"}) == []
    assert not clipboard._run_with_input(["xclip"], "text")
    assert not marks.exists()


def test_a_program_of_an_absolute_folder_is_found(
    marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f":.:{marks.with_name('folder')}")
    assert find_program("uv") == str(marks.with_name("folder") / "uv")


def test_the_working_folder_leaves_the_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/lib"])
    remove_working_folder_from_path(str(ROOT / "glmtui" / "__init__.py"))
    assert sys.path == ["/lib"]
    remove_working_folder_from_path(str(ROOT / "glmtui" / "__init__.py"))
    assert sys.path == ["/lib"]
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/lib"])
    remove_working_folder_from_path(str(tmp_path / "glmtui" / "__init__.py"))
    assert sys.path == [str(tmp_path), "/lib"]
