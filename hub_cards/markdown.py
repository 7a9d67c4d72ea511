"""Somebody else's words in a Markdown file, so that none of them can be markup."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_INLINE = 200  # characters in running text or in a cell
SHAPELESS = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode categories of control characters, half characters, line ends
MARKUP = re.compile(
    r"[\\`*\[\]<>|~$&]"
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # inside a word it is a letter
    r"|(?<=[A-Za-z]):(?=//)|(?<=\bwww)\.|@(?=[A-Za-z])",  # addresses become links by themselves
    re.IGNORECASE,
)


def inline(value: Any, max_characters: int = MAX_INLINE) -> str:
    """As one line, for anywhere but the beginning of a line, where a dash or a number would still be a list."""
    return MARKUP.sub(r"\\\g<0>", one_line(value, max_characters))


def fenced(text: str, language: str) -> str:
    """As a block of code that its content cannot end."""
    text = "".join("\ufffd" if unicodedata.category(character) == "Cs" else character for character in text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def pairs(values: Mapping[str, Any]) -> str:
    """`name value, name value`."""
    return ", ".join(f"{inline(name)} {inline(value)}" for name, value in values.items())


def one_line(value: Any, max_characters: int = MAX_INLINE) -> str:
    """As plain text on one line, cut, without control characters; not yet safe."""
    text = "".join(
        " " if unicodedata.category(character) in SHAPELESS else character
        for character in str(value)[: 4 * max_characters]
    )
    text = " ".join(text.split())
    return text if len(text) <= max_characters else text[: max_characters - 3].rstrip() + "..."


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
