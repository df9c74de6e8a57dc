"""Text out of files as text in Markdown and LaTeX: shown as it is, never obeyed."""

from __future__ import annotations

import re

from analysis.cli import printable

# Backslash escapes are those of CommonMark 0.31, 2.4; of its punctuation, what begins something within a line. `|` is
# GitHub's for tables, `~` its strikethrough, `$` its mathematics.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&$#])")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": "{`}",  # after ! or ? it would turn them round
    "-": "{-}",  # or two would be a dash
    "[": "{[}",  # or `\\` and `\midrule` before it would take it for their option
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "τ": r"$\tau$",
}


def markdown(text: str) -> str:
    """Text for a line of Markdown."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def latex(text: str) -> str:
    """Text for a line of LaTeX in any font encoding; what is neither ASCII nor of our own marks becomes `?`."""
    return "".join(_LATEX.get(char, char if char.isascii() else "?") for char in printable(text))
