"""Trainable rows, in and out, of the tokens beyond a frozen vocabulary: control, stars, decisions, codes, items.

The idea is that of `IdeficsDecoupledEmbedding`; ours also makes an item's row from what the item is, and grows.
A weight is used in the `forward` of the module that has it and nowhere else: hooks there bring it in (offload, FSDP2,
ZeRO-3). Where a module is asked for several things, the first argument of `forward` says which.
Shapes: V words, K added tokens that are no items, N items, W width of an embedding, C content tokens, G picture width.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from .configuration_unimp import UniMPConfig

Lookup = Callable[[torch.Tensor], torch.Tensor]

# How many items have their words averaged at once; bounds memory, not results.
ITEMS_AT_ONCE = 16384


class UniMPItemContent(nn.Module):
    """A row from an item's text and picture: `A norm(mean of its words' embeddings) + B norm(its picture)`.

    Norms have no weights, so that an item without text or without picture adds nothing for it.
    """

    def __init__(self, config: UniMPConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.text_proj = nn.Linear(width, width, bias=False)
        self.picture_proj = (
            nn.Linear(config.content_picture_size, width, bias=False) if config.content_picture_size else None
        )

    def forward(self, text: torch.Tensor, pictures: torch.Tensor | None) -> torch.Tensor:
        rows = self.text_proj(nn.functional.layer_norm(text, text.shape[-1:]))
        if self.picture_proj is not None and pictures is not None:
            pictures = nn.functional.layer_norm(pictures.to(text.dtype), pictures.shape[-1:])
            rows = rows + self.picture_proj(pictures)
        return rows


class UniMPRows(nn.Module):
    """One set of rows of the added tokens: input rows or output rows."""

    def __init__(self, config: UniMPConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.tokens = nn.Parameter(torch.empty(config.num_added_tokens, width))
        self.items = nn.Parameter(torch.empty(config.num_items, width)) if config.item_rows != "content" else None
        self.content = UniMPItemContent(config) if config.item_rows != "free" else None

    def forward(self, what: Literal["tokens", "items", "token_logits", "item_logits"], *args: Any) -> torch.Tensor:
        """Rows `(n, W)` of some tokens or items, or logits `(..., n)` of these; the methods below say of which."""
        of_what: dict[str, Callable[..., torch.Tensor]] = {
            "tokens": self._tokens,
            "items": self._items,
            "token_logits": self._token_logits,
            "item_logits": self._item_logits,
        }
        return of_what[what](*args)

    def _tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids, self.tokens)

    def _token_logits(self, hidden: torch.Tensor, which: slice) -> torch.Tensor:
        return nn.functional.linear(hidden, self.tokens[which].to(hidden.dtype))

    def _items(
        self, numbers: torch.Tensor | None, text: torch.Tensor | None, pictures: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Args:
            numbers (`torch.LongTensor` of shape `(n,)`, *optional*): which items; all of them without it.
            text (`torch.FloatTensor` of shape `(n, W)`, *optional*): mean of each one's words, for content rows.
            pictures (`torch.FloatTensor` of shape `(n, G)`, *optional*): pooled features of each one's picture.
        """
        rows: torch.Tensor | None = self.items
        if rows is not None and numbers is not None:
            rows = nn.functional.embedding(numbers, rows)
        if self.content is not None:
            content = self.content(text, pictures)
            rows = content if rows is None else rows + content
        assert rows is not None
        return rows

    def _item_logits(
        self, hidden: torch.Tensor, text: torch.Tensor | None, pictures: torch.Tensor | None
    ) -> torch.Tensor:
        """Of all items; `text` and `pictures` are those of `_items`."""
        return nn.functional.linear(hidden, self._items(None, text, pictures).to(hidden.dtype))


class UniMPItemEmbeddings(nn.Module):
    """Input and output rows of the added tokens, and the content that item rows are made from.

    The content (`content_token_ids` `(N, C)` int32, -1 where there is none, and `content_pictures` `(N, G)`) is saved
    with the model: loading needs no data.

    Args:
        config (`UniMPConfig`): `num_items`, `num_codes`, `codes_per_picture`, `item_rows`, `tie_item_rows`,
            `content_*`.
    """

    content_token_ids: torch.Tensor | None
    content_pictures: torch.Tensor | None

    def __init__(self, config: UniMPConfig):
        super().__init__()
        self.config = config
        # Input and output rows, under the names that they have in checkpoints.
        self.read = UniMPRows(config)
        self.write = None if config.tie_item_rows else UniMPRows(config)
        # What a code means depends on where in the picture it stands, and distances to [ANS] tell that poorly.
        places = torch.empty(config.codes_per_picture, config.text_config.hidden_size)
        self.code_places = nn.Parameter(places) if config.codes_per_picture else None
        # Added to the hidden state of the code at each place, so that which codes are usual at the next place need not
        # be computed by the layers.
        self.after_places = nn.Parameter(torch.zeros_like(places)) if config.codes_per_picture else None
        has_content = config.item_rows != "free"
        has_pictures = has_content and config.content_picture_size > 0
        token_ids = torch.full((config.num_items, config.content_length), -1, dtype=torch.int32)
        self.register_buffer("content_token_ids", token_ids if has_content else None)
        pictures = torch.zeros(config.num_items, config.content_picture_size)
        self.register_buffer("content_pictures", pictures if has_pictures else None)
        self._distinct: tuple[Any, tuple[torch.Tensor, torch.Tensor]] | None = None
        self._room: dict[str, torch.Tensor] = {}
        self._means: dict[str, tuple[int, int, torch.Tensor]] = {}

    @property
    def input_rows(self) -> UniMPRows:
        return self.read

    @property
    def output_rows(self) -> UniMPRows:
        """The input rows where both are one (`tie_item_rows`)."""
        return self.read if self.write is None else self.write

    def forward(
        self, what: Literal["input_rows", "after_codes", "token_logits", "item_logits", "output_rows"], *args: Any
    ) -> torch.Tensor:
        """What the methods below say.

        `words` looks up the language model's own rows, from which content rows are made: the `__call__` of its
        embedding, and not the module, which the hooks of offload would take for a tensor to be moved.
        """
        of_what: dict[str, Callable[..., torch.Tensor]] = {
            "input_rows": self._input_rows,
            "after_codes": self._after_codes,
            "token_logits": self._token_logits,
            "item_logits": self._item_logits,
            "output_rows": self._output_items,
        }
        return of_what[what](*args)

    def _input_rows(self, added_ids: torch.Tensor, places: torch.Tensor | None, words: Lookup) -> torch.Tensor:
        """Input rows of added tokens.

        Args:
            added_ids (`torch.LongTensor` of shape `(n,)`): ids less V.
            places (`torch.LongTensor` of shape `(n,)`, *optional*): where in its picture each code stands, -1 for
                other tokens.

        Returns:
            `torch.FloatTensor` of shape `(n, W)`.
        """
        num_tokens = self.config.num_added_tokens
        is_item = added_ids >= num_tokens
        rows: torch.Tensor = self.input_rows("tokens", added_ids.masked_fill(is_item, 0))
        if is_item.any():
            # An item that a batch names often has its content row computed once.
            numbers, which = (added_ids[is_item] - num_tokens).unique(return_inverse=True)
            items = self._item_rows(self.input_rows, words, numbers).to(rows.dtype)
            rows = rows.index_put((is_item,), items[which])
        return rows if places is None or self.code_places is None else _added(rows, places, self.code_places)

    def _after_codes(self, hidden_BTW: torch.Tensor, places_BT: torch.Tensor) -> torch.Tensor:
        """Hidden states with the row of its place added after each code `(B, T, W)`; places are -1 elsewhere."""
        return hidden_BTW if self.after_places is None else _added(hidden_BTW, places_BT, self.after_places)

    def _token_logits(self, hidden: torch.Tensor, which: slice) -> torch.Tensor:
        """Logits `(..., n)` of control tokens, stars, decisions and codes, those of the slice of them."""
        logits: torch.Tensor = self.output_rows("token_logits", hidden, which)
        return logits

    def _item_logits(self, hidden: torch.Tensor, words: Lookup) -> torch.Tensor:
        """Logits `(..., N)` of all items."""
        logits: torch.Tensor = self.output_rows("item_logits", hidden, *self._content(words))
        return logits

    def _output_items(self, words: Lookup) -> torch.Tensor:
        """Output rows of all items `(N, W)`, for callers that multiply with them many times."""
        return self._item_rows(self.output_rows, words)

    def _item_rows(self, rows: UniMPRows, words: Lookup, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Rows of some items, or of all."""
        made: torch.Tensor = rows("items", numbers, *self._content(words, numbers))
        return made

    def _content(
        self, words: Lookup, numbers: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Means of words, and pictures, of some items or of all."""
        token_ids, pictures = self.content_token_ids, self.content_pictures
        if token_ids is None:
            return None, None
        if numbers is not None:
            token_ids = token_ids[numbers]
            pictures = None if pictures is None else pictures[numbers]
        return mean_words(token_ids, words, self._distinct_words() if numbers is None else None), pictures

    def _content_key(self) -> Any:
        """Changes with any of the content."""
        ids = self.content_token_ids
        assert ids is not None
        return ids.data_ptr(), tuple(ids.shape), 0 if ids.is_inference() else ids._version

    def _distinct_words(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`unique` of all content, which takes longer than all else that item rows need: kept until it changes."""
        if self._distinct is None or self._distinct[0] != self._content_key():
            assert self.content_token_ids is not None
            with torch.inference_mode(False):  # what an answer finds out serves a training too
                distinct, places = self.content_token_ids.unique(return_inverse=True)
                self._distinct = (self._content_key(), (distinct, places.to(torch.int32)))
        return self._distinct[1]

    def _grown_distinct(self, token_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Distinct words and their places with those of items that are added."""
        distinct, places = self._distinct_words()
        place_of = {int(word): place for place, word in enumerate(distinct.tolist())}
        own = [[place_of.setdefault(word, len(place_of)) for word in row] for row in token_ids.tolist()]
        more = torch.tensor(list(place_of)[len(distinct) :], dtype=distinct.dtype, device=distinct.device)
        new = torch.tensor(own, dtype=torch.int32, device=places.device).view(len(own), -1)
        return torch.cat([distinct, more]), self._grown("places", places, new)

    def set_content(self, content_token_ids: torch.Tensor, content_pictures: torch.Tensor | None = None) -> None:
        """Set what item rows are made from.

        Args:
            content_token_ids (`torch.LongTensor` of shape `(N, length)`): text tokens of each item, -1 where there is
                none; cut or filled to `config.content_length`.
            content_pictures (`torch.FloatTensor` of shape `(N, G)`, *optional*): pooled vision features, zeros for an
                item without a picture; needed when `config.content_picture_size` is not 0.
        """
        token_ids, pictures = self._checked_content(self.config.num_items, content_token_ids, content_pictures)
        assert self.content_token_ids is not None
        self.content_token_ids = token_ids
        if pictures is not None:
            self.content_pictures = pictures

    @torch.no_grad()
    def add_items(
        self,
        num_new: int,
        content_token_ids: torch.Tensor | None = None,
        content_pictures: torch.Tensor | None = None,
    ) -> None:
        """Append rows; the old ones keep their values. A new free row is the mean of the old, or zero beside content.

        The parameters are replaced by larger ones: build the optimizer afterwards. There is room for more behind
        them, so that a thousand items added one by one are not a thousand copies of all rows.
        """
        if self.config.item_rows != "free":
            token_ids, pictures = self._checked_content(num_new, content_token_ids, content_pictures)
            assert self.content_token_ids is not None
            distinct = None if self._distinct is None else self._grown_distinct(token_ids)
            self.content_token_ids = self._grown("content_token_ids", self.content_token_ids, token_ids)
            self._distinct = None if distinct is None else (self._content_key(), distinct)
            if pictures is not None:
                assert self.content_pictures is not None
                self.content_pictures = self._grown("content_pictures", self.content_pictures, pictures)
        elif content_token_ids is not None or content_pictures is not None:
            raise ValueError("item_rows='free' makes nothing from content: add items by their number alone.")
        for name, rows in (("read", self.read), ("write", self.write)):
            if rows is None or rows.items is None:
                continue
            old, mean = rows.items, None
            if rows.content is not None:
                new = old.new_zeros(num_new, old.shape[1])
            elif len(old):
                mean = self._mean(name, old)
                new = mean.expand(num_new, -1)
            else:
                new = torch.randn(num_new, old.shape[1]).to(old) * self.config.initializer_range
            rows.items = nn.Parameter(self._grown(name, old, new), requires_grad=old.requires_grad)
            if mean is not None:  # which rows that equal it do not change
                self._means[name] = (rows.items.data_ptr(), rows.items._version, mean)

    @torch.no_grad()
    def update_items(
        self,
        numbers: torch.Tensor,
        content_token_ids: torch.Tensor,
        content_pictures: torch.Tensor | None = None,
    ) -> None:
        """Replace what the rows of some items are made from, for `item_rows` other than `"free"`.

        Args:
            numbers (`torch.LongTensor` of shape `(n,)`): which.
            content_token_ids, content_pictures (`torch.Tensor`): as of `add_items`, all of these items.
        """
        token_ids, pictures = self._checked_content(len(numbers), content_token_ids, content_pictures)
        assert self.content_token_ids is not None
        numbers = numbers.to(token_ids.device)
        self.content_token_ids[numbers] = token_ids
        if pictures is not None:
            assert self.content_pictures is not None
            self.content_pictures[numbers] = pictures

    def _mean(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Mean of all rows; known as long as items are only added."""
        known = self._means.get(name)
        if known is None or known[:2] != (rows.data_ptr(), rows._version):
            return rows.mean(dim=0, keepdim=True)
        return known[2]

    def _grown(self, name: str, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`old` with `new` below it: in the room behind `old` where there is enough, else copied into more room."""
        size, room = len(old) + len(new), self._room.get(name)
        if room is None or room.data_ptr() != old.data_ptr() or len(room) < size or room.dtype != old.dtype:
            room = old.new_empty(size + size // 2, *old.shape[1:])
            room[: len(old)] = old
            self._room[name] = room
        room[len(old) : size] = new
        return room[:size]

    def _checked_content(
        self, num_items: int, token_ids: torch.Tensor | None, pictures: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Content of the right shape, type and device."""
        config = self.config
        if config.item_rows == "free":
            raise ValueError("item_rows='free' makes nothing from content; choose item_rows='content' or 'both'.")
        if token_ids is None or token_ids.ndim != 2 or len(token_ids) != num_items:
            came = None if token_ids is None else tuple(token_ids.shape)
            raise ValueError(
                f"content_token_ids of shape {came}: item_rows={config.item_rows!r} needs ({num_items}, length), the "
                "text tokens of every item, -1 where there is none."
            )
        if len(token_ids) and int(token_ids.max()) >= config.text_config.vocab_size:
            raise ValueError(
                f"content_token_ids holds the id {int(token_ids.max())}: expected words of the language model, below "
                f"{config.text_config.vocab_size}."
            )
        needed = (num_items, config.content_picture_size)
        if config.content_picture_size and (pictures is None or tuple(pictures.shape) != needed):
            came = None if pictures is None else tuple(pictures.shape)
            raise ValueError(f"content_pictures of shape {came}: content_picture_size asks for {needed}.")
        if not config.content_picture_size and pictures is not None:
            raise ValueError("content_pictures came, but content_picture_size is 0: set it to their width.")
        missing = max(config.content_length - token_ids.shape[1], 0)
        token_ids = nn.functional.pad(token_ids[:, : config.content_length], (0, missing), value=-1)
        like = self.input_rows.tokens
        token_ids = token_ids.to(device=like.device, dtype=torch.int32).contiguous()
        return token_ids, None if pictures is None else pictures.to(device=like.device, dtype=like.dtype)


def mean_words(
    token_ids: torch.Tensor, words: Lookup, distinct: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """Mean embedding of each row's words `(n, W)`; a row of nothing but -1 is zero.

    Args:
        token_ids (`torch.IntTensor` of shape `(n, C)`): -1 where there is no word.
        words (`Callable`): from ids to the language model's own rows.
        distinct (`tuple`, *optional*): `token_ids.unique(return_inverse=True)`, if it is known.
    """
    # Each distinct word is looked up once, by the module that has it.
    ids, places = token_ids.unique(return_inverse=True) if distinct is None else distinct
    rows = words(ids.clamp(min=0))
    means = []
    for part, own in zip(places.split(ITEMS_AT_ONCE), token_ids.split(ITEMS_AT_ONCE), strict=True):
        present = (own >= 0).to(rows.dtype)
        weights = present / present.sum(dim=1, keepdim=True).clamp(min=1)
        # The bag adds up without first laying out n * C embeddings.
        means.append(nn.functional.embedding_bag(part, rows, per_sample_weights=weights, mode="sum"))
    return torch.cat(means) if means else rows.new_zeros(0, rows.shape[1])


def _added(states: torch.Tensor, places: torch.Tensor, rows_PW: torch.Tensor) -> torch.Tensor:
    """`states` `(..., W)` with the row of its place added to each; places `(...)` are -1 where nothing is added."""
    has_place = places >= 0
    added = nn.functional.embedding(places[has_place], rows_PW)
    return states.index_put((has_place,), added.to(states.dtype), accumulate=True)
