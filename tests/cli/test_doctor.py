"""``glmtui doctor`` on working and on broken machines."""

import ctypes
import importlib.util
import io
import json
import os
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from glmtui import config
from glmtui.cli import doctor
from glmtui.cli.main import main
from glmtui.config import Server, Settings
from glmtui.engine.hardware.gpu import Gpu
from glmtui.engine.hardware.host_memory import HostMemory
from glmtui.engine.hardware.machine import Snapshot
from glmtui.engine.nn.linear import gpu_support
from glmtui.engine.nn.linear.gpu_support import unavailable_reasons
from glmtui.engine.nn.native.build import NO_COMPILER, BuildResult
from glmtui.engine.pull import pull
from glmtui.errors import ConfigError
from support.checkpoints import llama_files, write_folder

GPU_BOX = Snapshot((Gpu(0, "NVIDIA H200", total=150 * 10**9, free=149 * 10**9),), HostMemory())


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty home, no GPU, a CPU build of torch, and a terminal of 80x24."""
    for name in ("DATA", "CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"GLMTUI_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setattr(doctor, "snapshot", lambda: Snapshot())
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.13.0+cpu")
    monkeypatch.setattr(
        doctor, "sys", SimpleNamespace(stdout=Terminal(), executable=sys.executable)
    )
    return tmp_path


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Puts a shell script in place of the Python that is asked about CUDA."""
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.13.0+cu128")
    monkeypatch.setattr(doctor, "snapshot", lambda: GPU_BOX)
    script = tmp_path / "python"

    def put(body: str) -> None:
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setattr(doctor.sys, "executable", str(script))

    return put


def results_for(subject, settings=None, problems=(), environ=None):
    """The results about one subject."""
    settings = settings or Settings()
    environ = {"TERM": "xterm-256color"} if environ is None else environ
    return [f for f in doctor.run_checks(settings, problems, environ) if f.subject == subject]


def only(*args, **kwargs):
    findings = results_for(*args, **kwargs)
    assert len(findings) == 1, findings
    return findings[0]


# ---- the command


def test_a_sound_machine_without_a_model_is_no_failure(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    subjects = [line[6:18].strip() for line in lines if not line.startswith(" ")]
    assert subjects[:2] == ["Python", "glmtui"]
    assert {"torch", "GPU", "memory", "terminal", "data", "models", "settings"} <= set(subjects)


def test_a_failure_is_exit_code_1(place, capsys):
    (place / "data").write_text("in the way")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fail  data" in out
    assert "set GLMTUI_DATA_DIR" in out


def test_bad_settings_are_found_and_are_no_failure(place, capsys):
    file = place / "my.toml"
    file.write_text("modle = 1\n")
    assert main(["--config", str(file), "doctor"]) == 0
    assert f'{file}, line 1: unknown setting "modle"' in capsys.readouterr().out


def test_it_changes_nothing(place):
    assert main(["doctor"]) == 0
    assert list(place.iterdir()) == []


# ---- torch and GPUs


def test_a_cpu_build_is_right_where_there_is_no_gpu():
    assert (only("torch").level, only("torch").message) == ("ok", "2.13.0+cpu")
    assert only("GPU").message == "no NVIDIA GPU; models run on the CPU"


def test_a_cpu_build_beside_a_gpu_is_worth_a_word(monkeypatch):
    monkeypatch.setattr(doctor, "snapshot", lambda: GPU_BOX)
    assert only("GPU").message == "NVIDIA H200, 149.0 of 150.0 GB free"
    assert (only("torch").level, "without CUDA" in only("torch").message) == ("warn", True)
    assert only("torch").advice


def test_no_torch_is_a_failure(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert only("torch").level == "fail"
    assert "pip install torch" in only("torch").advice


def test_memory_that_is_not_known_is_not_zero():
    assert only("memory").message == "n/a of n/a GB available"


def test_cuda_that_works(python):
    python("""echo '{"cuda": "12.8", "usable": true, "missing": {}}'""")
    assert (only("torch").level, only("torch").message) == ("ok", "2.13.0+cu128 with CUDA 12.8")


def test_cuda_that_torch_cannot_use(python):
    python("""echo '{"cuda": "12.8", "usable": false}'""")
    assert only("torch").level == "warn"
    assert "nvidia-smi" in only("torch").advice


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo 'ImportError: libcudart.so.12 is not there' >&2; exit 1", "libcudart.so.12 is not"),
        ("kill -SEGV $$", "exit code -11"),
        ("echo hello", "hello"),
    ],
)
def test_a_broken_driver_does_not_crash_doctor(python, body, message):
    python(body)
    assert only("torch").level == "fail"
    assert message in only("torch").message


def test_a_hanging_driver_is_a_timeout(python, monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.2)
    python("exec sleep 60")
    assert only("torch").level == "fail"
    assert "did not respond" in only("torch").message


def test_the_probe_works_on_the_torch_that_is_here(monkeypatch, tmp_path):
    """Run where a file named torch.py lies in wait."""
    (tmp_path / "torch.py").write_text("raise SystemExit('the wrong torch')")
    monkeypatch.chdir(tmp_path)
    first, *_ = doctor.probe_torch("2.13")
    assert first.message.startswith("2.13 ")
    assert first.level != "fail"


def test_the_gpu_kernels(python):
    old = {"tinygemm": "it needs 8.0", "triton": "it is not installed", "cpm_kernels": ""}
    new = {"tinygemm": "", "triton": "", "cpm_kernels": "it has code for 6.1 to 8.9 alone"}
    answer = {"cuda": "12.8", "usable": True, "missing": {"9.0": new, "6.1": old}}
    python(f"echo '{json.dumps(answer)}'")
    first, tinygemm, triton, cpm, second, no_cpm = results_for("kernels")
    assert "6.1: int8 and int4 weights use the fastest of unpacking" in first.message
    assert (tinygemm.level, tinygemm.message) == ("ok", "no tinygemm: it needs 8.0")
    assert (triton.level, triton.message) == ("warn", "no triton: it is not installed")
    assert cpm.message == "cpm_kernels: available (set quant.kernel)"
    assert (
        "9.0: int8 and int4 weights use the fastest of tinygemm, triton, unpacking"
        in second.message
    )
    assert no_cpm.message == "cpm_kernels: it has code for 6.1 to 8.9 alone"


def test_why_a_kernel_is_not_tried(monkeypatch):
    here = {"triton"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in here else None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(gpu_support.shutil, "which", lambda name: None)
    assert "8.0" in unavailable_reasons((7, 5))["tinygemm"]
    assert unavailable_reasons((8, 0))["tinygemm"] == ""
    assert "no C compiler" in unavailable_reasons((8, 0))["triton"]
    monkeypatch.setattr(gpu_support.shutil, "which", lambda name: name)
    monkeypatch.setattr(gpu_support.sysconfig, "get_path", lambda name: "/nowhere")
    assert "header files" in unavailable_reasons((8, 0))["triton"]
    here.clear()
    assert unavailable_reasons((8, 0))["triton"] == "not installed"
    assert "7.0" in unavailable_reasons((6, 1))["triton"]
    assert "6.1 to 8.9" in unavailable_reasons((9, 0))["cpm_kernels"]
    assert "glmtui[cpm]" in unavailable_reasons((8, 6))["cpm_kernels"]
    here.add("cpm_kernels")
    monkeypatch.setitem(sys.modules, "cpm_kernels", None)
    assert "cannot be imported" in unavailable_reasons((8, 6))["cpm_kernels"]


# ---- the terminal


def test_what_a_terminal_can_do():
    environ = {
        "TERM": "tmux-256color",
        "COLORTERM": "truecolor",
        "TMUX": "x",
        "SSH_CONNECTION": "y",
    }
    finding = only("terminal", environ=environ)
    assert finding.level == "ok"
    assert finding.message == "TERM tmux-256color, truecolor, 80x24, in tmux, over SSH"


@pytest.mark.parametrize("environ", [{}, {"TERM": "dumb"}])
def test_a_terminal_that_cannot_place_a_cursor(environ):
    finding = only("terminal", environ=environ)
    assert (finding.level, "line by line" in finding.message) == ("warn", True)


def test_a_small_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "39")
    assert only("terminal").level == "warn"
    assert "40 columns" in only("terminal").advice


def test_no_terminal_is_no_failure(monkeypatch):
    monkeypatch.setattr(Terminal, "isatty", lambda self: False)
    assert only("terminal", environ={}).level == "ok"


def test_a_locale_that_is_not_utf_8(monkeypatch):
    monkeypatch.setattr(Terminal, "encoding", "gb18030")
    assert only("encoding").level == "warn"
    assert "LC_ALL" in only("encoding").advice


# ---- folders


def test_folders_that_are_there_and_that_will_be(place):
    (place / "data").mkdir()
    assert "created when" not in only("data").message
    assert only("logs").message.endswith("(created when needed)")
    assert {f.level for f in results_for("data") + results_for("logs") + results_for("config")} == {
        "ok"
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_takes_no_files(place):
    (place / "data").mkdir(mode=0o500)
    assert only("data").level == "fail"


def test_too_little_room_for_models(monkeypatch):
    monkeypatch.setattr(doctor, "LOW_SPACE", 1e30)
    assert only("models").level == "warn"
    assert "GLMTUI_CACHE_DIR" in only("models").advice


# ---- models and settings


def test_no_model_says_how_to_get_one():
    assert only("model").level == "warn"
    assert "glmtui pull smollm2" in only("model").advice


def test_a_damaged_model_is_a_failure(place):
    folder = place / "cache" / "models" / "broken"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    damaged, default = results_for("model")
    assert (damaged.level, default.level) == ("fail", "warn")
    assert str(folder) in damaged.message


def test_code_that_a_model_brings_is_named(place):
    files = llama_files()
    auto_map = {"AutoModel": "modeling_x.Model", "AutoConfig": "o/r--conf.C", "Auto": ["t", 1]}
    config = json.loads(files["config.json"]) | {"auto_map": auto_map}
    folder = write_folder(place / "x", files | {"config.json": json.dumps(config).encode()})
    pull(str(folder))
    assert (
        "code in it, which is never run: modeling_x.py, o/r--conf.py"
        in results_for("model")[0].message
    )


def test_the_model_that_opens_is_the_configured_one():
    settings = Settings(model="lab", servers={"lab": Server("http://lab/v1")})
    assert only("model", settings).message == "lab is loaded at start"


def test_a_key_that_is_not_set():
    settings = Settings(servers={"lab": Server("http://lab/v1", key_env="LAB_KEY")})
    assert only("server", settings).level == "warn"
    assert "LAB_KEY" in only("server", settings).message
    with_key = only("server", settings, environ={"TERM": "xterm", "LAB_KEY": "secret"})
    assert with_key.level == "ok"
    assert "secret" not in with_key.message


def test_settings_say_which_file_they_come_from(place):
    assert str(config.config_file()) in only("settings").message
    problem = ConfigError("config.toml, line 3: no", "Did you mean yes?")
    here, bad = results_for("settings", problems=[problem])
    assert here.level == "ok"
    assert (bad.level, bad.message, bad.advice) == ("warn", problem.message, problem.hint)


def test_a_finding_is_a_line_and_its_advice():
    text = doctor.CheckResult("warn", "model", "none", "Pull one.").text
    assert text == f"warn  model       none\n{'':18}Pull one."


@pytest.mark.parametrize(
    ("problem", "status", "advice"),
    [
        ("", "ok", ""),
        (NO_COMPILER, "warn", "Install a C compiler, for example: apt install gcc"),
        ("this processor lacks avx2", "ok", ""),
    ],
)
def test_the_cpu_kernels(problem: str, status: str, advice: str) -> None:
    library = None if problem else ctypes.CDLL(None)
    found = doctor.cpu_kernel_check(BuildResult(library, problem=problem))
    assert (found.level, found.advice) == (status, advice)
    assert problem in found.message
