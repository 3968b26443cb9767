"""A text that came from data, as a terminal may see it: whatever is no visible character is escaped.

A terminal obeys what it is sent: a label with an escape sequence in it can move the cursor, hide lines and change titles.
"""

from __future__ import annotations


def printable(text: str, *, but: str = "") -> str:
    """The text with its control characters, line ends and marks of direction written out, `\\x1b`; those in `but` stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in but else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
