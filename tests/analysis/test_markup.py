"""Text out of files is shown in Markdown and LaTeX, and never obeyed."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from analysis import markup
from analysis.cli import printable
from tests.fixtures.markdown import inline

# Half of the characters are such as mean something to one of the two.
HOSTILE = st.text(st.sampled_from("\\`*_[]<>|~&$#{}^%-!'\"±×τé中\x1b\n\u202e") | st.characters(), max_size=30)

_PLAIN = r"[A-Za-z0-9 .,;:=+/()!?'\"@\]]"
_COMMAND = r"\\[&%$#_{}]|\\text(?:backslash|asciitilde|asciicircum|less|greater|bar)\{\}"
_HARMLESS = rf"(?:{_PLAIN}|{_COMMAND}|\{{[`\[*-]\}}|\$\\(?:pm|times|tau)\$)*"
_MEANT = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\pm$": "±",
    r"$\times$": "×",
    r"$\tau$": "τ",
}


def shown_by_latex(text: str) -> str:
    """What LaTeX prints of an escaped line."""
    tokens = re.findall(rf"{_COMMAND}|\{{.\}}|\$[^$]*\$|.", text)
    return "".join(_MEANT.get(token) or (token[1] if len(token) == 3 else token[-1]) for token in tokens)


@given(HOSTILE)
@example("a | b <script>alert(1)</script> [x](http://x) `c` **d** __e__ ~~f~~ &lt; $x$ \\| ![i](j)")
@example("<!-- ")
def test_markdown_shows_the_text_itself(text: str) -> None:
    assert inline(markup.markdown(text)).split() == printable(text).split()


@given(HOSTILE)
@example(r"\end{tabular}\input{/etc/passwd}")
@example("[3cm] * & % $ # _ { } ~ ^ < > | ` -- ?`")
def test_latex_shows_the_text_itself_and_nothing_in_it_is_a_command(text: str) -> None:
    escaped = markup.latex(text)
    assert re.fullmatch(_HARMLESS, escaped), escaped
    expected = "".join(char if char.isascii() or char in "±×τ" else "?" for char in printable(text))
    assert shown_by_latex(escaped) == expected


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("80.34 ± 0.10 (1.00x)", r"80.34 $\pm$ 0.10 (1.00x)"),
        ("τ (min)", r"$\tau$ (min)"),
        ("100 % of C&A_1", r"100 \% of C\&A\_1"),
        ("[3cm]", "{[}3cm]"),
        ("tx2-gpu", "tx2{-}gpu"),
    ],
)
def test_latex_by_hand(text: str, escaped: str) -> None:
    assert markup.latex(text) == escaped
