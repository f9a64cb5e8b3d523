r"""LaTeX mathematics as a line of Unicode: ``\frac{x^2}{2}`` becomes x²/2.

Only what can be shown without loss is: for anything else there is no answer, and the reader gets
the source. Letters and scripts are found by what Unicode says of them. Knows no Markdown.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

LONGEST = 2000
"""Characters of a formula that is converted; a longer one is no formula, or no help."""

_DEEPEST = 20


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_TOKEN = re.compile(r"\\operatorname\*|\\(?:[A-Za-z]+|.)|\s+|.", re.DOTALL)
# What needs no brackets beside a sign: a number, a letter with its scripts and marks, (...).
_ATOM = re.compile(r"[√∛∜]?(?:\d[\d.]*|[d∂]?[^\W\d_][²³¹⁰-ₜᴬ-ᵿ\u0300-\u036f\u20d7′]*|\([^()]*\))|∞")

# Symbols whose names in Unicode say nothing of those in LaTeX, each after its name.
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
_NOTHING = _set(
    "displaystyle textstyle scriptstyle limits nolimits left right middle nonumber notag "
    "big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr"
)
_WORDS = _set(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim limsup liminf "
    "max min sup inf arg det dim ker deg gcd hom Pr mod argmax argmin"
)
_TEXTS = _set("text textrm textbf textit textsf texttt mathrm mathsf mathit mbox operatorname")
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
    """The formula `source`, without its dollars, in one or more lines; None where it cannot be."""
    if len(source) > LONGEST:
        return None
    reader = _Reader(source)
    try:
        shown = reader.until("")
    except _UnknownError:
        return None
    return "\n".join(line.strip() for line in shown.split("\n") if line.strip()) or None


class _UnknownError(Exception):
    """There is no way to show this."""


class _Reader:
    """Reads a formula from its beginning to its end."""

    def __init__(self, source: str) -> None:
        self._tokens = _TOKEN.findall(source)
        self._at = 0
        self._depth = 0
        self._symbol = False  # whether the last token was a command that made one character

    def until(self, end: str) -> str:
        """What there is up to a token, which is taken too; "" stands for the end."""
        shown = ""
        while (token := self._next()) != end:
            if not token:
                raise _UnknownError
            shown = self._and(shown, token)
        return shown

    def _and(self, shown: str, token: str) -> str:
        """What was shown with what begins with `token`."""
        if token in "^_":
            self._symbol = False
            return shown.rstrip(" ") + self._script(token)
        if token.isspace():
            # Before a letter it may only end a command's name, unless one stands before that too.
            ends_name = self._symbol and not shown[:-1].endswith(" ") and self._begins_word()
            return shown if ends_name or shown.endswith(" ") else shown + " "
        more = self._shown(token)
        self._symbol = (
            self._tokens[self._at - 1] is token and token[1:].isalpha() and len(more) == 1
        )
        if more in ("∑", "∏", "∫") and shown[-1:].isalnum():
            more = " " + more
        return shown + more

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

    def _shown(self, token: str) -> str:
        if token == "{":
            return self._deeper("}")
        if token in "}&":
            raise _UnknownError
        if token.isspace():
            return " "
        if token == "~":
            return " "
        if token == "'":
            return "′"
        if token == "-":
            return "−"
        return self._command(token[1:]) if token[0] == "\\" else token

    def _deeper(self, end: str) -> str:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _UnknownError
        inner = self.until(end)
        self._depth -= 1
        return inner

    def _argument(self) -> str:
        token = self._peek()
        self._at += 1
        if not token or token in "^_":
            raise _UnknownError
        return self._shown(token)

    def _raw(self) -> str:
        """A group as it stands."""
        if self._peek() != "{":
            raise _UnknownError
        self._at += 1
        start, depth = self._at, 1
        while depth:
            token = self._next()
            if not token:
                raise _UnknownError
            depth += {"{": 1, "}": -1}.get(token, 0)
        return "".join(self._tokens[start : self._at - 1])

    def _command(self, name: str) -> str:
        if name in _NOTHING:
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
        if name.rstrip("*") in _TEXTS:
            return self._text()
        if name in _ALPHABETS:
            return "".join(_letter(_ALPHABETS[name], char) for char in self._argument())
        if name in _ACCENTS:
            return _accented(self._argument(), _ACCENTS[name])
        if name == "begin":
            return self._environment(self._raw())
        if name in _BRACKETS:
            return _BRACKETS[name].format(self._argument())
        if name == "\\":
            return "\n"
        if name == "not":
            return unicodedata.normalize("NFC", self._argument() + "\u0338")
        if name in _WORDS:
            return f"{name} " if self._begins_word() else name
        for known in (_SPACES, _ESCAPED, _symbols()):
            if name in known:
                return known[name]
        return _greek(name)

    def _root(self) -> str:
        degree = ""
        if self._peek() == "[":
            self._at += 1
            degree = self._deeper("]")
        root = _ROOTS.get(degree) or (_script_of(degree, "^") or "").replace("^", "") + "√"
        if degree and root == "√":
            raise _UnknownError
        return root + _factor(self._argument())

    def _text(self) -> str:
        text = self._raw() if self._peek() == "{" else self._argument()
        if re.search(r"[\\$^_{}]", text):
            raise _UnknownError
        return text

    def _script(self, sign: str) -> str:
        inner = self._argument().strip()
        if script := _script_of(inner, sign):
            return script
        apart = " " if self._begins_word() else ""
        return f"{sign}{inner if len(inner) == 1 else f'({inner})'}{apart}"

    def _environment(self, name: str) -> str:
        if name not in _ROWS and name not in _MATRICES:
            raise _UnknownError
        rows: list[list[str]] = [[""]]
        while True:
            token = self._next()
            if token == r"\end" and self._raw() == name:
                break
            if not token:
                raise _UnknownError
            if token == "&":
                rows[-1].append("")
            elif token == r"\\":
                rows.append([""])
            else:
                rows[-1][-1] = self._and(rows[-1][-1], token)
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
    """`text` in brackets, if it would fall apart beside a sign."""
    text = text.strip()
    return text if _ATOM.fullmatch(text) else f"({text})"


def _script_of(text: str, sign: str) -> str | None:
    """`text` raised (^) or lowered (_), where Unicode has all of it so."""
    scripts = _scripts(sign)
    raised = [scripts.get(char) for char in text.replace(" ", "")]
    return "".join(char for char in raised if char) if text and all(raised) else None


@lru_cache(maxsize=2)
def _scripts(sign: str) -> dict[str, str]:
    """The raised or lowered form of each character that has one."""
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
        raise _UnknownError from None


def _letter(alphabet: str, char: str) -> str:
    """A letter or digit in another alphabet; others as they are."""
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
    raise _UnknownError


def _accented(text: str, mark: str) -> str:
    if len(text) != 1 and mark not in ("\u0305", "\u0332"):
        raise _UnknownError
    return unicodedata.normalize("NFC", "".join(char + mark for char in text))
