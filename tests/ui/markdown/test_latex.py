"""Formulas: conversion to Unicode, and what is not a formula."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmtui.sanitize import MAX_MARKS, sanitize
from glmtui.ui.markdown.document import render
from glmtui.ui.markdown.latex import unicode_math


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (r"\alpha + \Beta \varepsilon\lambda", "α + Β ελ"),
        ("x^2 + y_{i+1}", "x² + yᵢ₊₁"),
        (r"x_\text{max}^{(2)}", "xₘₐₓ⁽²⁾"),
        (r"e^{-x^2/2} a^{\alpha q}", "e^(−x²/2) a^(αq)"),
        (r"\nabla_\theta J \to 0", "∇_θ J → 0"),
        (r"\frac{a+b}{2\pi} \frac12 \dfrac{-1}{x^2}", "(a+b)/(2π) 1/2 −1/x²"),
        (r"\frac{d}{dx}\left(x^2\right)", "d/dx(x²)"),
        (r"\sqrt{x^2+1} \sqrt[3]{y} \sqrt 2", "√(x²+1) ∛y √2"),
        (r"\frac{-b \pm \sqrt{b^2-4ac}}{2a}", "(−b ± √(b²−4ac))/(2a)"),
        (r"\sum_{i=0}^{n} i^2 = \int_0^\infty f(x)\,dx", "∑ᵢ₌₀ⁿ i² = ∫₀^∞ f(x) dx"),
        (r"\lim_{x\to 0} \sin x", "lim_(x→0) sin x"),
        (r"\mathbb{R}^n \mathcal{L} \mathbf{x1} \mathfrak{C}", "ℝⁿ ℒ 𝐱𝟏 ℭ"),
        (r"\hat{y} \vec v \overline{AB}", "ŷ v⃗ A̅B̅"),
        (r"\operatorname*{argmax}_i \text{if } x", "argmaxᵢ if x"),
        (r"\|x\|_2 \{1\} 50\% \binom{n}{k} \not\in", "‖x‖₂ {1} 50% C(n, k) ∉"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "(1  2; 3  4)"),
        (r"\begin{aligned} a &= b \\ &= c\end{aligned}", "a = b\n= c"),
        (r"|x|=\begin{cases} x & x>0 \\ -x & \text{else}\end{cases}", "|x|={x  x>0; −x  else}"),
        (r"\boxed{42} \left. f\right|_0", "[42] f|₀"),
        (r"\text{速度} = 路程", "速度 = 路程"),
    ],
)
def test_formulas_are_converted_to_unicode(source: str, shown: str) -> None:
    assert unicode_math(source) == shown


@pytest.mark.parametrize(
    "source",
    [
        *(r"\unknown{x}", r"\frac{1", "{", "}", "x_", "a & b", "{" * 50, "", "x" * 3000),
        *(r"\begin{matrix} a", r"\begin{tikz}x\end{tikz}", r"\hat{ab}", r"\text{$x$}"),
        *(r"\mathbb", r"\left"),
    ],
)
def test_what_unicode_lacks_is_not_converted(source: str) -> None:
    assert unicode_math(source) is None


PIECES = r"""
\frac \sqrt { } ^ _ \alpha \left( \right) x 1 [ ] + - ' 中 & \\ \ \text \hat \mathbb
\begin{cases} \end{cases} \begin{matrix} \end{matrix}
"""


@given(st.lists(st.sampled_from([*PIECES.split(), " "]), max_size=30).map("".join))
def test_any_source_is_accepted(source: str) -> None:
    shown = unicode_math(source)
    assert shown is None or "\\" not in shown.replace("∖", "")


def lines(source: str) -> list[str]:
    return [line.text for line in render(source, 60)]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("so $x^2$ is", ["so x² is"]),
        ("$E = mc^2$ of $a, b$", ["E = mc² of a, b"]),
        ("其中$x_1$是", ["其中x₁是"]),
        (r"let \(a^2\), **$b$** and $$c^2$$ be", ["let a², b and c² be"]),
        ("text:\n$$\na\n- b\n$$\nmore", ["text:", "  a − b", "more"]),
        ("\\[\n\\frac{a}{b}\n\\].\nnext", ["  a/b.", "next"]),
        ("- it\n  $$\n  \\alpha\n  $$\n- $x$", ["• it", "    α", "• x"]),
        ("> $$\n> x^2\n> $$\n> a", ["▎   x²", "▎ a"]),
        ("| $x^2$ | b |\n|-|-|\n| $\\pi$ | $5 |", ["x²  b", "──  ──", "π   $5"]),
        (r"$\nope{x}$ and \[\nope\]", [r"$\nope{x}$ and \[\nope\]"]),
        ("$$\nopen\n\npara $y$", ["  $$", "  open", "", "para y"]),
        ("\\[ \x1b[2J \\]", ["  ␛[2J"]),
    ],
)
def test_formulas_in_a_text(source: str, shown: list[str]) -> None:
    assert lines(sanitize(source)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.",
        "a $5-$10 b",
        "US$5 or 6$",
        "($5) or (€6, 7$)",
        "$HOME/$USER",
        "5$ or 6$",
        "a$b$c",
        "$ x $",
        "$5",
    ],
)
def test_prices_and_shells_stay_text(text: str) -> None:
    assert lines(text) == [text]


@pytest.mark.parametrize("command", [r"\not", r"\sqrt", r"\hat", r"\frac", "^", r"\overline"])
def test_deep_nesting_is_shown_as_source(command: str) -> None:
    source = command * 200 + "x"
    assert unicode_math(source) is None
    assert lines(f"$$ {source} $$")


def test_nested_accents_add_up_and_do_not_multiply() -> None:
    source = r"\overline{" * 19 + "ab" + "}" * 19
    assert unicode_math(source) == "a" + "\u0305" * 19 + "b" + "\u0305" * 19
    marks = "\u0301" * MAX_MARKS
    (line,) = lines(rf"$\overline{{x{marks}}}$")
    assert line.count("\u0301") + line.count("\u0305") <= MAX_MARKS


def test_code_has_no_formulas() -> None:
    assert lines("`$x^2$` \\$5 $5\n\n    $x^2$") == ["$x^2$ $5 $5", "", " $x^2$"]
