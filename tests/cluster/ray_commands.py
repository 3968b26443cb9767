"""What the guide tells a person to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

CLUSTER = Path(__file__).parents[2] / "cluster"


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in its blocks of text, continued lines joined, comments left out."""
    for block in re.findall(r"```(?:text|bash)\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n *", "", block).splitlines():
            words = shlex.split(re.split(r" {3,}", line.strip())[0], comments=True)
            if words:
                yield words


def marks_asked(kind: str) -> set[str]:
    """What the guide's commands say of teachers' and workers' nodes, by `resource` or `label`."""
    found = set()
    for words in commands((CLUSTER / "README.md").read_text()):
        for option, value in pairwise(words):
            if option in (f"--teacher-{kind}", f"--worker-{kind}"):
                found.add(value)
    return found
