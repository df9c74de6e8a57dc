"""HTML that is escaped by construction: text is escaped when it becomes a child, and only `Html` is taken as it is."""

from __future__ import annotations

import html
from collections.abc import Iterable

from analysis.cli import printable

_VOID = frozenset({"br", "img", "input", "meta"})


class Html(str):
    """Markup that we made. Nothing that was read from a file may ever be wrapped in it."""

    __slots__ = ()


def text(value: str) -> Html:
    """Text of whatever origin as HTML: escaped for content and attributes, control and bidirectional signs as `?`."""
    return Html(html.escape(printable(value)))


def lines(value: str) -> Html:
    """Text of several lines for a `pre`: line ends stay, tabs become spaces, the rest is as in `text`."""
    return Html("\n".join(text(line.expandtabs(4)) for line in value.splitlines()))


def element(tag: str, *children: str, **attributes: str | None) -> Html:
    """`<tag a="b">children</tag>`. Attributes that are None are left out; `class_` is class, `data_sort` data-sort."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    return Html(f"<{tag}{given}>{join(children)}</{tag}>")


def join(children: Iterable[str]) -> Html:
    """Children one after the other, escaped where they are plain text."""
    return Html("".join(child if isinstance(child, Html) else text(child) for child in children))
