"""Ids of the tokens that UniMP adds beyond a language model's vocabulary.

They are in no tokenizer: the processor writes the ids straight into the sequence, so no text that a merchant or a
shopper writes can become one of them. Layout, with V the rows of the language model's embedding, C picture codes and
N items: V+0 .. V+4 control, five stars, <no> <yes>, C codes, N items (last, so that the catalogue can grow).
"""

from dataclasses import dataclass

NUM_STARS = 5
CONTROL_NAMES = ("[CLS]", "[IMG]", "[EOC]", "[ANS]", "[PAD]")
_STARS = len(CONTROL_NAMES)
_DECISIONS = _STARS + NUM_STARS
_CODES = _DECISIONS + 2


@dataclass(frozen=True)
class ControlTokens:
    """The added ids of one checkpoint.

    Args:
        base (`int`): V, the first id after the language model's own vocabulary.
        num_codes (`int`, *optional*, defaults to 0): C, size of the picture codebook.
    """

    base: int
    num_codes: int = 0

    @property
    def cls(self) -> int:
        return self.base

    @property
    def image(self) -> int:
        return self.base + 1

    @property
    def eoc(self) -> int:
        return self.base + 2

    @property
    def answer(self) -> int:
        return self.base + 3

    @property
    def pad(self) -> int:
        return self.base + 4

    def star(self, stars: int) -> int:
        """Id of `<rate_1>` .. `<rate_5>`."""
        if not 1 <= stars <= NUM_STARS:
            raise ValueError(f"a rating of {stars} stars: expected a whole number from 1 to {NUM_STARS}.")
        return self.base + _STARS + stars - 1

    def decision(self, chosen: bool) -> int:
        """Id of `<no>` or `<yes>`."""
        return self.base + _DECISIONS + int(chosen)

    def code(self, index: int) -> int:
        """Id of `<code_index>`."""
        if not 0 <= index < self.num_codes:
            raise ValueError(f"picture code {index} is outside the codebook of {self.num_codes} codes.")
        return self.base + _CODES + index

    def item(self, number: int) -> int:
        """Id of `<item_number>`, the item in row `number` of the catalogue."""
        return self.base + _CODES + self.num_codes + number

    def item_number(self, token_id: int) -> int | None:
        """Row of the catalogue that a token id stands for, or `None` when it is not an item token."""
        number = token_id - self.item(0)
        return number if number >= 0 else None

    def name(self, token_id: int) -> str:
        """Printable name of an added id; for logs and for reading sequences, never for encoding."""
        offset = token_id - self.base
        if offset < 0:
            raise ValueError(
                f"token id {token_id} belongs to the language model, whose vocabulary ends at {self.base}."
            )
        if offset < _STARS:
            return CONTROL_NAMES[offset]
        if offset < _DECISIONS:
            return f"<rate_{offset - _STARS + 1}>"
        if offset < _CODES:
            return ("<no>", "<yes>")[offset - _DECISIONS]
        if offset < _CODES + self.num_codes:
            return f"<code_{offset - _CODES}>"
        return f"<item_{offset - _CODES - self.num_codes}>"
