"""Markdown as lines, and untrusted Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len

from glmtui.ui.markdown.document import code_blocks, render
from glmtui.ui.markdown.emphasis import CJKInline
from glmtui.ui.markdown.styled_text import CHROME, LINK_PREFIX, Line, plain_text


def shown(source: str, width: int = 40) -> list[str]:
    return [line.text for line in render(source, width)]


def styles_of(text: str, lines: list[Line]) -> tuple[str, ...]:
    return next(span.styles for line in lines for span in line.spans if span.text == text)


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("para\nof two lines\n\nnext", ["para", "of two lines", "", "next"]),
        ("hard  \nbreak\\\nhere", ["hard", "break", "here"]),
        ("# One\n## Two\nSetext\n===", ["One", "Two", "Setext"]),
        ("- a\n- b", ["• a", "• b"]),
        ("- a\n\n- b", ["• a", "", "• b"]),
        ("- a\n  - b\n    - c\n- d", ["• a", "  ◦ b", "    ▪ c", "• d"]),
        ("9. nine\n10. ten\n    - in\n11. next", ["9. nine", "10. ten", "    ◦ in", "11. next"]),
        ("1. a\n1. b\n1. c", ["1. a", "2. b", "3. c"]),
        ("3) a\n4) b", ["3) a", "4) b"]),
        ("1. a\n\n   more\n\n2. b", ["1. a", "", "   more", "", "2. b"]),
        ("> said\n> > twice", ["▎ said", "▎ ▎ twice"]),
        ("> - in\n>\n> out", ["▎ • in", "▎ ", "▎ out"]),
        ("a\n\n---\nb", ["a", "", "─" * 40, "b"]),
        ("```python\nx = 1\n```", [" python", " x = 1"]),
        ("```\n  x\n\n y", ["   x", " ", "  y"]),
        ("```sh title=run.sh\nls\n```", [" sh title=run.sh", " ls"]),
        ("    indented code", [" indented code"]),
        ("1. a\n   ```\n   x\n   ```", ["1. a", "    x"]),
        ("text:\n- item", ["text:", "• item"]),
        ("- [ ] to do\n- [x] done", ["• [ ] to do", "• [x] done"]),
        ("", []),
    ],
)
def test_blocks(source: str, lines: list[str]) -> None:
    assert shown(source) == lines


@pytest.mark.parametrize(
    ("source", "text", "styles"),
    [
        ("a **b** c", "b", ("strong",)),
        ("*a **b***", "b", ("emphasis", "strong")),
        ("~~a~~", "a", ("strike",)),
        ("`**a**`", "**a**", ("code",)),
        ("## a *b*", "b", ("heading-2", "emphasis")),
        ("###### a", "a", ("heading-3",)),
        ("> *a*", "a", ("quote", "emphasis")),
        ("- a", "• ", ("marker",)),
        ("```python\ndef f(): pass\n```", "def ", ("code-block", "syntax-keyword")),
        ("```python\ndef f(): pass\n```", "f", ("code-block", "syntax-name")),
        ("```nosuchlanguage\ndef f(): pass\n```", "def f(): pass", ("code-block",)),
        ("|a|\n|-|\n|b|", "a", ("table-head",)),
    ],
)
def test_styles(source: str, text: str, styles: tuple[str, ...]) -> None:
    assert styles_of(text, render(source, 40)) == styles


def in_bold(source: str) -> str:
    """What is drawn of a line, with what is bold in square brackets."""
    spans = [span for line in render(source, 60) for span in line.spans]
    return "".join(f"[{s.text}]" if "strong" in s.styles else s.text for s in spans)


# From the test cases of https://github.com/tats-u/markdown-cjk-friendly, and our own.
@pytest.mark.parametrize(
    ("source", "drawn"),
    [
        ("**注意：**请先备份。", "[注意：]请先备份。"),
        ("这是**“重要”**的。", "这是[“重要”]的。"),
        ("**Markdown（标记）**是一种语言", "[Markdown（标记）]是一种语言"),
        ("这里用**`git reset`**撤销", "这里用[git reset]撤销"),
        ("**「A」**なので**「B」**です", "[「A」]なので[「B」]です"),
        ("**注意**：请先备份。", "[注意]：请先备份。"),
        ("1. **步骤（一）：**运行", "1. [步骤（一）：]运行"),
        ("| **键：**值 | 甲 |\n|-|-|\n", "[键：]值  甲"),
        ("价格是**$100**元", "价格是[$100]元"),
        ("真“**她**”", "真“[她]”"),
        ("**真—**她**真…**她", "[真—]她[真…]她"),
        ("Git**（注：不是GitHub）**", "Git[（注：不是GitHub）]"),
        ("𰻞𰻞**(ビャンビャン)**麺", "𰻞𰻞[(ビャンビャン)]麺"),
        ("葛\U000e0100**(こちらが)**城市", "葛\U000e0100[(こちらが)]城市"),
        ("大塚\ufe00**(U+585A)** 大", "大塚\ufe00[(U+585A)] 大"),
        ("**“\ufe01Git”\ufe01**Hub", "[“\ufe01Git”\ufe01]Hub"),
        ("**안녕(hello)**하세요", "[안녕(hello)]하세요"),
        ("\u1161**(a)**", "\u1161[(a)]"),
        ("__注意__：注意事項", "[注意]：注意事項"),
        ("中文__中文__中文", "中文__中文__中文"),  # within a word, as for Latin letters
        ("a**\u3030**a", "a[\u3030]a"),
        ("a**\u274c**a", "a**\u274c**a"),  # an emoji is no CJK character
        ("a**(b)**c", "a**(b)**c"),  # and without any, all is as CommonMark has it
        ('a **"b"** c', 'a ["b"] c'),
        ("2 ** 3 ** 4", "2 ** 3 ** 4"),
        ("**", "**"),
    ],
)
def test_bold_beside_chinese_japanese_and_korean(source: str, drawn: str) -> None:
    assert drawn in in_bold(source)


def test_other_emphasis_beside_chinese() -> None:
    assert styles_of("“重要”", render("这*“重要”*的", 40)) == ("emphasis",)
    assert styles_of("（旧）", render("新~~（旧）~~的", 40)) == ("strike",)


@given(st.text(alphabet="*_~ a(.`\n", max_size=12))
def test_without_cjk_emphasis_follows_commonmark(source: str) -> None:
    ours = MarkdownIt()
    ours.inline = CJKInline()
    ours.configure("commonmark")
    assert ours.render(source) == MarkdownIt("commonmark").render(source)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("[bank](http://evil.example)", "bank (http://evil.example)"),
        ("[http://good.com](http://evil.example)", "http://good.com (http://evil.example)"),
        ("<http://same.example>", "http://same.example"),
        ("[http://same.example/a](http://same.example/a)", "http://same.example/a"),
        ("<me@example.com>", "me@example.com"),
        ("[](http://evil.example)", "(http://evil.example)"),
        ("![alt](http://e.com/x.png)", "alt (http://e.com/x.png)"),
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
    ],
)
def test_a_link_shows_its_address(source: str, text: str) -> None:
    assert shown(source, 60) == [text]


@pytest.mark.parametrize(
    ("source", "addresses"),
    [
        ("[a](http://e.com/x) b", {"a": "http://e.com/x", " (http://e.com/x)": "http://e.com/x"}),
        ("<me@e.com>", {"me@e.com": "mailto:me@e.com"}),
        ("![i](HTTPS://e.com)", {"i": "HTTPS://e.com", " (HTTPS://e.com)": "HTTPS://e.com"}),
        ("[a](file:///etc/passwd)", {}),
        ("[a](ssh://e.com) [b](/x)", {}),
        ("[a](http://e.com/\x1b]8;;x)", {}),
        ("[模](http://e.com/模)", {"模": "http://e.com/%E6%A8%A1"}),
    ],
)
def test_only_web_addresses_become_hyperlinks(source: str, addresses: dict[str, str]) -> None:
    spans = [span for line in render(source, 60) for span in line.spans]
    found = {
        text: styles[-1].removeprefix(LINK_PREFIX)
        for text, styles in spans
        if styles and styles[-1].startswith(LINK_PREFIX)
    }
    assert {text: found.get(text) for text in addresses} == addresses
    assert bool(found) == bool(addresses)


def test_code_blocks_are_found_at_any_depth() -> None:
    source = "```py\na\n\nb\n```\n- x\n\n  ~~~\n  c\n  ~~~\n> 1. ```\n>    d\n"
    assert [(block.info, block.text) for block in code_blocks(source)] == [
        ("py", "a\n\nb"),
        ("", "c"),
        ("", "d"),
    ]


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("<b>x</b> <script>y</script>", ["<b>x</b> <script>y</script>"]),
        ("<div>\n*x*\n</div>", ["<div>", "x", "</div>"]),
        ("[1]: http://e.com\n\n[a][1]", ["[1]: http://e.com", "", "[a][1]"]),
        ("[bold]x[/] [@click=app.quit]y[/]", ["[bold]x[/] [@click=app.quit]y[/]"]),
        ("a &#x202e;b &#27;c &#13;d", ["a �b �c ␍d"]),
        ("```\n&#x202e;\n```", [" &#x202e;"]),
    ],
)
def test_html_stays_text_and_entities_are_sanitised(source: str, lines: list[str]) -> None:
    assert shown(source) == lines


@pytest.mark.parametrize("opening", [">", "- ", "1. "])
def test_too_deep_nesting_is_shown_as_source(opening: str) -> None:
    text = "".join(shown(opening * 90 + "word", 80))
    assert text.count(opening.strip()) == 90
    assert "word" in text


TABLE = "| left | center | right |\n|:--|:-:|--:|\n| a | 模型 | 1 |\n| `b` | x<br>y | 23 |"


def test_tables_align_their_columns() -> None:
    assert shown(TABLE) == [
        "left  center  right",
        "────  ──────  ─────",
        "a      模型       1",
        "",
        "b       x        23",
        "        y",
    ]


def test_a_table_fits_its_width_by_wrapping_the_widest_columns() -> None:
    source = "|id|text|\n|-|-|\n|1|a long cell that has to wrap|\n|2|short|"
    assert shown(source, 16) == [
        "id  text",
        "──  ────────────",
        "1   a long cell",
        "    that has to",
        "    wrap",
        "",
        "2   short",
    ]


def test_a_table_with_too_many_columns_becomes_a_list() -> None:
    head, row = ("|".join(f"{letter}{n}long" for n in range(8)) for letter in "hv")
    lines = shown(f"|{head}|\n|{'-|' * 8}\n|{row}|", 30)
    assert lines[:3] == ["v0long", "  h1long: v1long", "  h2long: v2long"]
    assert len(lines) == 8


def test_long_code_lines_wrap_and_are_copied_whole() -> None:
    code = "value = first_function(argument) + second_function(argument)"
    lines = render(f"```python\n{code}\n```", 30)
    assert len(lines) > 2
    assert all(line.fill == ("code-block",) for line in lines)
    assert {line.text[0] for line in lines[2:]} == {"↳"}
    assert plain_text(lines) == code


def test_a_narrow_width_drops_the_indent_and_not_text() -> None:
    lines = shown("- " * 12 + "word", 14)
    assert max(map(cell_len, lines)) <= 14
    assert "word" in "".join(lines)


PARTS = ("word", "你好，", "**", "*", "`", "```", "\n", "\n\n", "- ", "1. ", "> ", "    ", "# ")
MORE = ("---", "|", "| a | b |\n|---|---|\n", "[t](http://e.com)", "<b>", "\\", "&amp;", "\t")


@given(st.lists(st.sampled_from(PARTS + MORE), max_size=40), st.integers(16, 50))
def test_any_text_fits_and_keeps_its_words(parts: list[str], width: int) -> None:
    source = "".join(parts)
    lines = render(source, width)
    assert max((cell_len(line.text) for line in lines), default=0) <= width
    if "|" not in source:  # a table drops the cells it has no column for, as GitHub's do
        text = "".join(
            span.text
            for line in lines
            for span in line.spans
            if CHROME not in span.styles or "code-label" in span.styles
        )
        assert text.count("word") >= source.count("word")
