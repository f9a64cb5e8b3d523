r"""Converts LaTeX mathematics to plain Unicode: ``\frac{x^2}{2}`` becomes x²/2.

Only formulas that can be written without loss are converted; for all others the source is shown.
Greek letters, alphabets, superscripts and subscripts come from the Unicode database.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_FORMULA_LENGTH = 2000
"""Length in characters up to which a text between delimiters is taken for a formula."""

_MAX_DEPTH = 20
"""Nesting of groups and arguments; deeper formulas are not converted. Bounds the recursion."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TOKEN = re.compile(r"\\operatorname\*|\\(?:[A-Za-z]+|.)|\s+|.", re.DOTALL)
# Operands that need no parentheses: a number, a letter with its scripts and accents, (...).
_ATOM = re.compile(r"[√∛∜]?(?:\d[\d.]*|[d∂]?[^\W\d_][²³¹⁰-ₜᴬ-ᵿ\u0300-\u036f\u20d7′]*|\([^()]*\))|∞")

# LaTeX names and the symbols they stand for, alternately.
_SYMBOLS = r"""
    pm ± mp ∓ times × div ÷ cdot · ast ∗ star ⋆ circ ∘ bullet • oplus ⊕ otimes ⊗ odot ⊙
    le ≤ leq ≤ leqslant ≤ ge ≥ geq ≥ geqslant ≥ ne ≠ neq ≠ ll ≪ gg ≫ approx ≈ equiv ≡ sim ∼
    simeq ≃ cong ≅ propto ∝ prec ≺ succ ≻ in ∈ notin ∉ ni ∋ subset ⊂ supset ⊃ subseteq ⊆
    supseteq ⊇ cup ∪ cap ∩ setminus ∖ emptyset ∅ varnothing ∅ forall ∀ exists ∃ nexists ∄ neg ¬
    lnot ¬ land ∧ wedge ∧ lor ∨ vee ∨ top ⊤ bot ⊥ perp ⊥ parallel ∥ mid ∣ vdash ⊢ models ⊨
    to → rightarrow → longrightarrow ⟶ leftarrow ← gets ← longleftarrow ⟵ leftrightarrow ↔
    Rightarrow ⇒ Longrightarrow ⟹ implies ⟹ Leftarrow ⇐ Leftrightarrow ⇔ iff ⟺ mapsto ↦
    uparrow ↑ downarrow ↓ hookrightarrow ↪ rightharpoonup ⇀ rightleftharpoons ⇌
    sum ∑ prod ∏ coprod ∐ int ∫ iint ∬ iiint ∭ oint ∮ bigcup ⋃ bigcap ⋂ bigoplus ⨁ bigotimes ⨂
    infty ∞ partial ∂ nabla ∇ angle ∠ triangle △ square □ blacksquare ■ hbar ℏ ell ℓ Re ℜ Im ℑ
    aleph ℵ wp ℘ dagger † ddagger ‡ prime ′ degree ° checkmark ✓ therefore ∴ because ∵
    ldots … dots … dotsc … dotsb ⋯ cdots ⋯ vdots ⋮ ddots ⋱ colon : lbrace { rbrace } vert |
    lvert | rvert | Vert ‖ lVert ‖ rVert ‖ langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉
    backslash \ varepsilon ε epsilon ϵ vartheta ϑ varphi φ phi ϕ varrho ϱ varsigma ς varpi ϖ
"""
_SPACES = {",": " ", ":": " ", ";": " ", " ": " ", "!": "", "quad": "  ", "qquad": "    "}
_ESCAPED = {**{char: char for char in "{}$%&#_"}, "|": "‖"}
_IGNORED = _set(
    "displaystyle textstyle scriptstyle limits nolimits left right middle nonumber notag "
    "big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr"
)
_FUNCTIONS = _set(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim limsup liminf "
    "max min sup inf arg det dim ker deg gcd hom Pr mod argmax argmin"
)
_TEXT_COMMANDS = _set(
    "text textrm textbf textit textsf texttt mathrm mathsf mathit mbox operatorname"
)
_ALPHABETS = {
    "mathbb": "DOUBLE-STRUCK",
    "mathbf": "BOLD",
    "boldsymbol": "BOLD",
    "bm": "BOLD",
    "mathcal": "SCRIPT",
    "mathscr": "SCRIPT",
    "mathfrak": "FRAKTUR",
}
_ACCENTS = {
    "hat": "\u0302",
    "widehat": "\u0302",
    "tilde": "\u0303",
    "widetilde": "\u0303",
    "bar": "\u0304",
    "overline": "\u0305",
    "dot": "\u0307",
    "ddot": "\u0308",
    "vec": "\u20d7",
    "underline": "\u0332",
}
_WITH_MARKS = re.compile(r".[\u0300-\u036f\u20d7]*", re.DOTALL)  # a character and its accents
_BRACKETS = {"boxed": "[{}]", "pmod": "(mod {})", "tag": "  ({})"}
_ROOTS = {"": "√", "2": "√", "3": "∛", "4": "∜"}
_ROWS = _set("aligned align align* split gather gather* gathered equation equation*")
_MATRICES = {
    "matrix": "  ",
    "pmatrix": "()",
    "bmatrix": "[]",
    "vmatrix": "||",
    "Vmatrix": "‖‖",
    "cases": "{}",
}


@lru_cache(maxsize=512)
def unicode_math(source: str) -> str | None:
    """Converts `source`, a formula without its delimiters, to one or more lines.

    Returns None if it cannot be converted without loss.
    """
    if len(source) > MAX_FORMULA_LENGTH:
        return None
    parser = _Parser(source)
    try:
        text = parser.read_until("")
    except _UnsupportedError:
        return None
    return "\n".join(line.strip() for line in text.split("\n") if line.strip()) or None


class _UnsupportedError(Exception):
    """The formula cannot be converted."""


class _Parser:
    """A recursive descent parser; its methods return converted text."""

    def __init__(self, source: str) -> None:
        self._tokens = _TOKEN.findall(source)
        self._at = 0
        self._depth = 0
        self._after_symbol = False  # whether the last token was a command for one character

    def read_until(self, end: str) -> str:
        """Converts the tokens up to `end`, which is consumed too; "" is the end of the formula."""
        text = ""
        while (token := self._next()) != end:
            if not token:
                raise _UnsupportedError
            text = self._append(text, token)
        return text

    def _append(self, text: str, token: str) -> str:
        """`text`, followed by what begins with `token`."""
        if token in "^_":
            self._after_symbol = False
            return text.rstrip(" ") + self._script(token)
        if token.isspace():
            # A space between a command and a letter only ends the command's name, unless there is
            # also a space before the command.
            ends_name = self._after_symbol and not text[:-1].endswith(" ") and self._begins_word()
            return text if ends_name or text.endswith(" ") else text + " "
        converted = self._convert(token)
        self._after_symbol = (
            self._tokens[self._at - 1] is token and token[1:].isalpha() and len(converted) == 1
        )
        if converted in ("∑", "∏", "∫") and text[-1:].isalnum():
            converted = " " + converted
        return text + converted

    def _next(self) -> str:
        token = self._tokens[self._at] if self._at < len(self._tokens) else ""
        self._at += 1
        return token

    def _peek(self) -> str:
        while self._at < len(self._tokens) and self._tokens[self._at].isspace():
            self._at += 1
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _begins_word(self) -> bool:
        """Whether a letter, a digit or a command comes next."""
        follows = self._tokens[self._at : self._at + 1]
        return bool(follows) and (follows[0].isalnum() or follows[0][0] == "\\")

    def _convert(self, token: str) -> str:
        if token == "{":
            return self._group("}")
        if token in "}&":
            raise _UnsupportedError
        if token.isspace():
            return " "
        if token == "~":
            return " "
        if token == "'":
            return "′"
        if token == "-":
            return "−"
        return self._command(token[1:]) if token[0] == "\\" else token

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnsupportedError

    def _group(self, end: str) -> str:
        self._enter()
        inner = self.read_until(end)
        self._depth -= 1
        return inner

    def _argument(self) -> str:
        token = self._peek()
        self._at += 1
        if not token or token in "^_":
            raise _UnsupportedError
        if token == "{":
            return self._group("}")
        self._enter()  # an argument without braces can be a command with an argument
        argument = self._convert(token)
        self._depth -= 1
        return argument

    def _raw_group(self) -> str:
        """The source of a group."""
        if self._peek() != "{":
            raise _UnsupportedError
        self._at += 1
        start, depth = self._at, 1
        while depth:
            token = self._next()
            if not token:
                raise _UnsupportedError
            depth += {"{": 1, "}": -1}.get(token, 0)
        return "".join(self._tokens[start : self._at - 1])

    def _command(self, name: str) -> str:
        if name in _IGNORED:
            if name in ("left", "right", "middle") and self._peek() == ".":
                self._at += 1
            return ""
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            above, below = self._argument().strip(), self._argument().strip()
            loose = re.search(r"[\s+−=/,<>±]", above.lstrip("−")) and not _ATOM.fullmatch(above)
            return f"{f'({above})' if loose else above}/{_factor(below)}"
        if name in ("binom", "dbinom", "tbinom"):
            return f"C({self._argument()}, {self._argument()})"
        if name == "sqrt":
            return self._root()
        if name.rstrip("*") in _TEXT_COMMANDS:
            return self._text()
        if name in _ALPHABETS:
            return "".join(_letter(_ALPHABETS[name], char) for char in self._argument())
        if name in _ACCENTS:
            return _accented(self._argument(), _ACCENTS[name])
        if name == "begin":
            return self._environment(self._raw_group())
        if name in _BRACKETS:
            return _BRACKETS[name].format(self._argument())
        if name == "\\":
            return "\n"
        if name == "not":
            return unicodedata.normalize("NFC", self._argument() + "\u0338")
        if name in _FUNCTIONS:
            return f"{name} " if self._begins_word() else name
        for known in (_SPACES, _ESCAPED, _symbols()):
            if name in known:
                return known[name]
        return _greek(name)

    def _root(self) -> str:
        degree = ""
        if self._peek() == "[":
            self._at += 1
            degree = self._group("]")
        root = _ROOTS.get(degree) or (_as_script(degree, "^") or "").replace("^", "") + "√"
        if degree and root == "√":
            raise _UnsupportedError
        return root + _factor(self._argument())

    def _text(self) -> str:
        text = self._raw_group() if self._peek() == "{" else self._argument()
        if re.search(r"[\\$^_{}]", text):
            raise _UnsupportedError
        return text

    def _script(self, sign: str) -> str:
        inner = self._argument().strip()
        if script := _as_script(inner, sign):
            return script
        apart = " " if self._begins_word() else ""
        return f"{sign}{inner if len(inner) == 1 else f'({inner})'}{apart}"

    def _environment(self, name: str) -> str:
        if name not in _ROWS and name not in _MATRICES:
            raise _UnsupportedError
        rows: list[list[str]] = [[""]]
        while True:
            token = self._next()
            if token == r"\end" and self._raw_group() == name:
                break
            if not token:
                raise _UnsupportedError
            if token == "&":
                rows[-1].append("")
            elif token == r"\\":
                rows.append([""])
            else:
                rows[-1][-1] = self._append(rows[-1][-1], token)
        lines = [[cell.strip() for cell in row] for row in rows if any(map(str.strip, row))]
        if name in _ROWS:
            return "\n".join(" ".join(filter(None, row)) for row in lines)
        body = "; ".join("  ".join(row) for row in lines)
        return f"{_MATRICES[name][0]}{body}{_MATRICES[name][1]}"


@lru_cache(maxsize=1)
def _symbols() -> dict[str, str]:
    words = _SYMBOLS.split()
    return dict(zip(words[::2], words[1::2], strict=True))


def _factor(text: str) -> str:
    """`text` as an operand: in parentheses unless it is an atom."""
    text = text.strip()
    return text if _ATOM.fullmatch(text) else f"({text})"


def _as_script(text: str, sign: str) -> str | None:
    """`text` in superscript (^) or subscript (_); None if Unicode lacks one of its characters."""
    scripts = _scripts(sign)
    scripted = [scripts.get(char) for char in text.replace(" ", "")]
    return "".join(char for char in scripted if char) if text and all(scripted) else None


@lru_cache(maxsize=2)
def _scripts(sign: str) -> dict[str, str]:
    """The superscript or subscript form of each character that has one."""
    kind = "<super>" if sign == "^" else "<sub>"
    blocks = (*range(0xA0, 0x100), *range(0x1D2C, 0x1D80), *range(0x2070, 0x20A0), 0x2C7C, 0x2C7D)
    found: dict[str, str] = {"′": "′"} if sign == "^" else {}
    for code in blocks:
        form, _, plain = unicodedata.decomposition(chr(code)).partition(" ")
        if form == kind and " " not in plain:
            found.setdefault(chr(int(plain, 16)), chr(code))
    return {**found, **({"∘": "°", "⊤": "ᵀ", "∗": "*", "*": "*"} if sign == "^" else {})}


def _greek(name: str) -> str:
    size = "CAPITAL" if name[:1].isupper() else "SMALL"
    letter = {"lambda": "lamda", "Lambda": "lamda"}.get(name, name)
    try:
        return unicodedata.lookup(f"GREEK {size} LETTER {letter}")
    except KeyError:
        raise _UnsupportedError from None


def _letter(alphabet: str, char: str) -> str:
    """An ASCII letter or digit in another alphabet; other characters unchanged."""
    if not char.isascii() or not char.isalnum():
        return char
    kind = "DIGIT" if char.isdigit() else "CAPITAL" if char.isupper() else "SMALL"
    name = unicodedata.name(char).rpartition(" ")[2]
    old = {"DOUBLE-STRUCK": "DOUBLE-STRUCK", "FRAKTUR": "BLACK-LETTER"}.get(alphabet, alphabet)
    for full in (f"{old} {kind} {name}", f"MATHEMATICAL {alphabet} {kind} {name}"):
        try:
            return unicodedata.lookup(full)
        except KeyError:
            continue
    raise _UnsupportedError


def _accented(text: str, mark: str) -> str:
    """Adds a combining mark. Only lines over and under the text can be on several characters."""
    if len(text) != 1 and mark not in ("\u0305", "\u0332"):
        raise _UnsupportedError
    marked = _WITH_MARKS.sub(lambda found: found.group() + mark, text)
    return unicodedata.normalize("NFC", marked)
