"""A chat template is untrusted: it gets limited time and memory, and nothing else."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest

from glmtui.engine.tokenization.template_renderer import TemplateRenderer
from glmtui.errors import UnsupportedModel

CONTENTS = "{% for m in messages %}{{ m.content }}|{% endfor %}"
TALK = {"messages": [{"role": "user", "content": "你好\n\udc80"}, {"role": "user", "content": ""}]}


def test_a_template_sees_what_it_is_given() -> None:
    template = TemplateRenderer(CONTENTS + "{{ x | tojson }}{{ strftime_now('%Y')[:2] }}")
    assert template.render({**TALK, "x": {"a": "é"}}) == '你好\n\udc80||{"a": "é"}20'


# the results of transformers 5 (`_compile_jinja_template` in its chat_template_utils)
@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "{% for m in messages %}{% generation %}{{ m.role }}\n{% endgeneration %}{% endfor %}",
            "user\nuser\n",
        ),
        ("{%- generation -%} a {%- endgeneration -%} b", "ab"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        ("{{ x | tojson }}", '{"b": "é<", "a": [1, null]}'),
        ("{{ x | tojson(ensure_ascii=False) }}", '{"b": "é<", "a": [1, null]}'),
        ("{{ x | tojson(ensure_ascii=true) }}", '{"b": "\\u00e9<", "a": [1, null]}'),
        ("{{ x.a | tojson(indent=1) }}", "[\n 1,\n null\n]"),
        ("{{ x.a | tojson(False, 1) }}", "[\n 1,\n null\n]"),
        ("{{ x | tojson(separators=(',', ':')) }}", '{"b":"é<","a":[1,null]}'),
        ("{{ x | tojson(sort_keys=True) }}", '{"a": [1, null], "b": "é<"}'),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}"
            "{% if i == 2 %}{% break %}{% endif %}{% endfor %}",
            "02",
        ),
        ("{{ strftime_now(format='%Y')[:2] }}", "20"),
        ("{% set d = dict(a=1) %}{% set n = namespace(b=2) %}{{ d.a }}{{ n.b }}", "12"),
    ],
)
def test_the_environment_is_that_of_transformers(source: str, text: str) -> None:
    assert TemplateRenderer(source).render({**TALK, "x": {"b": "é<", "a": [1, None]}}) == text


@pytest.mark.parametrize(
    "greedy",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 'a'.center(10**10) }}",
        "{{ '%09999999999d' % 1 }}",
        "{{ range(99999) | list * 99999 }}",
        "{% set s = namespace(x='a') %}{% for i in range(60) %}"
        "{% set s.x = s.x ~ s.x %}{% endfor %}",
        "{% for i in range(70) %}{{ 'a' * 10**6 }}{% endfor %}",
        "{% for i in range(10**12) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ raise_exception('no') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ nothing.there }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_what_takes_too_much_or_breaks_is_refused(greedy: str) -> None:
    template = TemplateRenderer("{% if not quiet %}" + greedy + "{% endif %}ok")
    with pytest.raises(UnsupportedModel, match=r"refused this conversation: ."):
        template.render(TALK)
    assert template.render({**TALK, "quiet": True}) == "ok"  # another conversation works


def test_what_never_ends_is_ended() -> None:
    forever = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    template = TemplateRenderer("{% if not quiet %}" + forever + "{% endif %}ok")
    with pytest.raises(UnsupportedModel, match="too much time"):
        template.render(TALK)
    assert template.render({**TALK, "quiet": True}) == "ok"


@pytest.mark.parametrize(
    "broken", ["{% for", "{% if 1 %}" * 5000, "{{ x | nothing }}", "{" * 10**6]
)
def test_what_does_not_parse_is_named(broken: str) -> None:
    with pytest.raises(UnsupportedModel, match="does not parse"):
        TemplateRenderer(broken)


def test_a_process_that_died_is_replaced() -> None:
    template = TemplateRenderer(CONTENTS)
    assert template._process is not None
    os.kill(template._process.pid, signal.SIGKILL)
    with pytest.raises(UnsupportedModel):
        template.render(TALK)
    assert template.render({"messages": []}) == ""


def test_the_process_gets_no_secrets_and_ends_with_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret4711")
    template = TemplateRenderer(CONTENTS)
    assert template._process is not None
    proc_entry = Path(f"/proc/{template._process.pid}")
    assert b"4711" not in (proc_entry / "environ").read_bytes()
    del template
    gc.collect()
    assert not proc_entry.exists()
