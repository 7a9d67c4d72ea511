"""Text of sellers and shoppers: as one line, and as Markdown in which none of it is markup."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from processing_unimp.item_text import clean_value

MAX_LINE = 200  # characters in running text or in a cell
MAX_VALUE_WORDS = 24  # of an attribute that is a list or a number
INVISIBLE = {"Cc", "Cf", "Cs"}  # Unicode categories: control characters, format characters, half of a surrogate pair
JOINERS = "\u200c\u200d"  # format characters without which Persian words and composed emoji fall apart
MARKUP = re.compile(
    r"[\\`*\[\]<>|~$&]"
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # inside a word it is a letter
    r"|(?<=[A-Za-z]):(?=//)|(?<=\bwww)\.|@(?=[A-Za-z])",  # addresses become links by themselves
    re.IGNORECASE,
)


def one_line(value: Any, max_characters: int = MAX_LINE) -> str:
    """As plain text on one line, cut, without control characters and those that turn the direction of reading.

    It is not escaped. Lists and numbers are written as the model reads them; nothing, of what is no text.
    """
    text = value if isinstance(value, str) else clean_value(value, MAX_VALUE_WORDS) or ""
    text = "".join(
        " " if unicodedata.category(character) in INVISIBLE and character not in JOINERS else character
        for character in text[: 4 * max_characters]
    )
    text = " ".join(text.split())
    return text if len(text) <= max_characters else text[: max_characters - 3].rstrip() + "..."


def inline(value: Any, max_characters: int = MAX_LINE) -> str:
    """As Markdown on one line, for anywhere but its beginning, where a dash or a number would still be a list."""
    return MARKUP.sub(r"\\\g<0>", one_line(str(value), max_characters))


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


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
