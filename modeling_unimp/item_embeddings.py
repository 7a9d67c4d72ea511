"""Trainable rows, in and out, of the tokens beyond a frozen vocabulary: control, stars, decisions, codes, items.

The idea is that of `IdeficsDecoupledEmbedding`; ours also makes an item's row from what the item is, and grows.
A weight is used in the `forward` of the module that has it and nowhere else: hooks there bring it in (offload, FSDP2,
ZeRO-3). Where a module is asked for several things, the first argument of `forward` says which.
Shapes: V words, K added tokens that are no items, N items, W width of a row, C terms of an item, G picture width.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from .configuration_unimp import UniMPConfig
from .weights_version import WeightsVersion

# Rows that are made more precise for a product; those of a CPU stay in its cache.
_ROWS_AT_ONCE, _ROWS_AT_ONCE_ON_CPU = 2**16, 2**9


class ItemContent(NamedTuple):
    """What items are, for their content rows.

    Args:
        term_ids (`torch.IntTensor` of shape `(n, C)`): numbers of terms, -1 where there is none.
        term_weights (`torch.FloatTensor` of shape `(n, C)`)
        pictures (`torch.FloatTensor` of shape `(n, G)`, *optional*): pooled vision features, zeros for an item without
            a picture; needed when `config.content_picture_size` is not 0.
    """

    term_ids: torch.Tensor
    term_weights: torch.Tensor
    pictures: torch.Tensor | None = None


class UniMPItemContent(nn.Module):
    """A row from what an item's attributes say and its picture: `sum of weight * vector of the term + B picture`.

    The weights of an item and its picture are vectors of length 1, so that a row is as large as those that it is made
    of, and neither learns faster; an item without text or without picture gets nothing for it.
    """

    def __init__(self, config: UniMPConfig):
        super().__init__()
        self.width = width = config.text_config.hidden_size
        self.terms = nn.Parameter(torch.empty(config.num_terms, width)) if config.num_terms else None
        self.picture_proj = (
            nn.Linear(config.content_picture_size, width, bias=False) if config.content_picture_size else None
        )

    def forward(self, content: ItemContent) -> torch.Tensor:
        """Rows `(n, W)`."""
        rows: torch.Tensor | None = None
        if self.terms is not None:
            # The bag adds up without first laying out n * C vectors.
            rows = nn.functional.embedding_bag(
                content.term_ids.clamp(min=0),
                self.terms,
                per_sample_weights=content.term_weights.to(self.terms.dtype),
                mode="sum",
            )
        if self.picture_proj is not None:
            assert content.pictures is not None
            projected = self.picture_proj(content.pictures.to(self.picture_proj.weight.dtype))
            rows = projected if rows is None else rows + projected
        if rows is None:  # items that have nothing in common, whose free rows are all there is
            rows = content.term_weights.new_zeros(len(content.term_ids), self.width)
        return rows


def item_logits(hidden: torch.Tensor, rows_NW: torch.Tensor, is_ranking: bool = True) -> torch.Tensor:
    """Logits `(..., N)` of items. Where they are ranked and no gradient is wanted, in float32 whatever the weights are
    held in or autocast says: of the logits of some ten thousand items in bfloat16 many of the best are equal."""
    if torch.is_grad_enabled() or not is_ranking:
        return nn.functional.linear(hidden, rows_NW.to(hidden.dtype))
    device = hidden.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        precise = torch.promote_types(rows_NW.dtype, torch.float32)
        if rows_NW.dtype == precise:
            return nn.functional.linear(hidden.to(precise), rows_NW)
        # A copy of all rows would be twice as large as they are.
        at_once = _ROWS_AT_ONCE_ON_CPU if device == "cpu" else _ROWS_AT_ONCE
        precise_hidden = hidden.to(precise)
        some = [nn.functional.linear(precise_hidden, rows.to(precise)) for rows in rows_NW.split(at_once)]
        return torch.cat(some, dim=-1)


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

    def _items(self, numbers: torch.Tensor | None, content: ItemContent | None) -> torch.Tensor:
        """
        Args:
            numbers (`torch.LongTensor` of shape `(n,)`, *optional*): which items; all of them without it.
            content (`ItemContent`, *optional*): theirs, for content rows.
        """
        rows: torch.Tensor | None = self.items
        if rows is not None and numbers is not None:
            rows = nn.functional.embedding(numbers, rows)
        if self.content is not None:
            assert content is not None
            made = self.content(content)
            rows = made if rows is None else rows + made
        assert rows is not None
        return rows

    def _item_logits(self, hidden: torch.Tensor, content: ItemContent | None, is_ranking: bool) -> torch.Tensor:
        """Of all items, whose content it is."""
        return item_logits(hidden, self._items(None, content), is_ranking)


class UniMPItemEmbeddings(nn.Module):
    """Input and output rows of the added tokens, and the content that item rows are made from.

    The content (`content_term_ids` `(N, C)` int32, -1 where there is none, `content_term_weights` `(N, C)`,
    `content_pictures` `(N, G)`, centred and normed, and their `picture_mean` `(G,)`) is saved with the model: loading
    needs no data.

    Args:
        config (`UniMPConfig`): `num_items`, `num_codes`, `codes_per_picture`, `item_rows`, `tie_item_rows`,
            `num_terms`, `content_*`.
    """

    content_term_ids: torch.Tensor | None
    content_term_weights: torch.Tensor | None
    content_pictures: torch.Tensor | None
    picture_mean: torch.Tensor | None
    # Whether output rows are made once for each version of the weights, which must then stay where they are: a
    # pipeline sets it. Nothing tells of weights that offload or sharding bring anew for every forward.
    keeps_rows = False

    def __init__(self, config: UniMPConfig):
        super().__init__()
        self.config = config
        self._kept_rows: tuple[WeightsVersion, torch.Tensor] | None = None
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
        term_ids = torch.full((config.num_items, config.content_length), -1, dtype=torch.int32)
        self.register_buffer("content_term_ids", term_ids if has_content else None)
        weights = torch.zeros(config.num_items, config.content_length)
        self.register_buffer("content_term_weights", weights if has_content else None)
        pictures = torch.zeros(config.num_items, config.content_picture_size)
        self.register_buffer("content_pictures", pictures if has_pictures else None)
        mean = torch.zeros(config.content_picture_size)
        self.register_buffer("picture_mean", mean if has_pictures else None)
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
        self,
        what: Literal["input_rows", "after_codes", "token_logits", "item_logits", "output_rows"],
        *args: Any,
    ) -> torch.Tensor:
        """What the methods below say."""
        of_what: dict[str, Callable[..., torch.Tensor]] = {
            "input_rows": self._input_rows,
            "after_codes": self._after_codes,
            "token_logits": self._token_logits,
            "item_logits": self._item_logits,
            "output_rows": self._output_items,
        }
        return of_what[what](*args)

    @torch.compiler.disable
    def _input_rows(self, added_ids: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
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
            items = self._item_rows(self.input_rows, numbers).to(rows.dtype)
            rows = rows.index_put((is_item,), items[which])
        return rows if places is None or self.code_places is None else _added(rows, places, self.code_places)

    def _after_codes(self, hidden_BTW: torch.Tensor, places_BT: torch.Tensor) -> torch.Tensor:
        """Hidden states with the row of its place added after each code `(B, T, W)`; places are -1 elsewhere."""
        return hidden_BTW if self.after_places is None else _added(hidden_BTW, places_BT, self.after_places)

    def _token_logits(self, hidden: torch.Tensor, which: slice) -> torch.Tensor:
        """Logits `(..., n)` of control tokens, stars, decisions and codes, those of the slice of them."""
        logits: torch.Tensor = self.output_rows("token_logits", hidden, which)
        return logits

    def _item_logits(self, hidden: torch.Tensor, is_ranking: bool = True) -> torch.Tensor:
        """Logits `(..., N)` of all items."""
        logits: torch.Tensor = self.output_rows("item_logits", hidden, self._content(), is_ranking)
        return logits

    def _output_items(self, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Output rows of all items `(N, W)`, for callers that multiply with them many times; or of some `(n, W)`."""
        if numbers is not None or not self.keeps_rows or torch.is_grad_enabled():
            return self._item_rows(self.output_rows, numbers)
        version = WeightsVersion(self)
        if self._kept_rows is None or self._kept_rows[0] != version:
            made = self._item_rows(self.output_rows)
            self._kept_rows = version, made.to(torch.promote_types(made.dtype, torch.float32))
        return self._kept_rows[1]

    def _item_rows(self, rows: UniMPRows, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Rows of some items, or of all."""
        made: torch.Tensor = rows("items", numbers, self._content(numbers))
        return made

    def _content(self, numbers: torch.Tensor | None = None) -> ItemContent | None:
        """That of some items, or of all."""
        ids, weights, pictures = self.content_term_ids, self.content_term_weights, self.content_pictures
        if ids is None or weights is None:
            return None
        if numbers is None:
            return ItemContent(ids, weights, pictures)
        return ItemContent(ids[numbers], weights[numbers], None if pictures is None else pictures[numbers])

    @torch.no_grad()
    def set_content(self, content: ItemContent) -> None:
        """Set what the rows of all items are made from; lists of terms are cut or filled to `config.content_length`.

        Pictures are kept centred by their mean and normed, which makes a row of what sets one apart from the others.
        """
        pictures = content.pictures
        if pictures is not None and self.picture_mean is not None:
            has = pictures.any(dim=1)
            mean = pictures[has].float().mean(dim=0) if has.any() else torch.zeros(pictures.shape[1])
            if mean.shape == self.picture_mean.shape:
                self.picture_mean.copy_(mean)
        checked = self._checked_content(self.config.num_items, content)
        self.content_term_ids, self.content_term_weights = checked.term_ids, checked.term_weights
        if checked.pictures is not None:
            self.content_pictures = checked.pictures

    @torch.no_grad()
    def similarity_of_terms(self, content: ItemContent) -> Iterator[torch.Tensor]:
        """How like each item is to each of some others in its terms `(N,)`, on the CPU: the product of their weights,
        which are vectors of length 1 but for terms beyond `config.content_length`."""
        ids, weights = self.content_term_ids, self.content_term_weights
        assert ids is not None and weights is not None
        ids, weights = ids.cpu().long().clamp(min=0), weights.float().cpu()
        for own_ids, own_weights in zip(content.term_ids.long(), content.term_weights.float(), strict=True):
            of_terms = torch.zeros(self.config.num_terms)
            of_terms[own_ids[own_ids >= 0]] = own_weights[own_ids >= 0]
            yield (of_terms[ids] * weights).sum(dim=1)

    @torch.no_grad()
    def similarity_of_pictures(self, content: ItemContent) -> Iterator[torch.Tensor]:
        """How like each item is to each of some others in its picture `(N,)`, on the CPU: the squared cosine of their
        features less the mean of all, 0 without a picture."""
        assert self.content_pictures is not None
        others = self._checked_content(len(content.term_ids), content).pictures
        assert others is not None
        pictures = self.content_pictures.float().cpu()
        for other in others.float().cpu():
            yield (pictures @ other).clamp(min=0).square()

    @torch.no_grad()
    def add_items(
        self,
        num_new: int,
        content: ItemContent | None = None,
    ) -> None:
        """Append rows; the old ones keep their values. A new free row is the mean of the old, or zero beside content.

        The parameters are replaced by larger ones: build the optimizer afterwards. There is room for more behind
        them, so that a thousand items added one by one are not a thousand copies of all rows.
        """
        if any(rows is not None and rows.items is not None and rows.items.is_meta for rows in (self.read, self.write)):
            raise ValueError(
                "the rows of items are offloaded and cannot grow: load the model without device_map, add the items, "
                "save it and load it again."
            )
        if self.config.item_rows != "free":
            own = self._checked_content(num_new, content)
            for name, added in (
                ("content_term_ids", own.term_ids),
                ("content_term_weights", own.term_weights),
                ("content_pictures", own.pictures),
            ):
                if added is not None:
                    setattr(self, name, self._grown(name, getattr(self, name), added))
        elif content is not None:
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
        self, numbers: torch.Tensor, content: ItemContent, keep_pictures: torch.Tensor | None = None
    ) -> None:
        """Replace what the rows of some items are made from, for `item_rows` other than `"free"`.

        Args:
            numbers (`torch.LongTensor` of shape `(n,)`): which.
            content (`ItemContent`): of all of these.
            keep_pictures (`torch.BoolTensor` of shape `(n,)`, *optional*): whose picture stays as it is.
        """
        new = self._checked_content(len(numbers), content)
        assert self.content_term_ids is not None and self.content_term_weights is not None
        numbers = numbers.to(new.term_ids.device)
        self.content_term_ids[numbers] = new.term_ids
        self.content_term_weights[numbers] = new.term_weights
        if new.pictures is not None:
            assert self.content_pictures is not None
            changed = slice(None) if keep_pictures is None else ~keep_pictures.to(numbers.device)
            self.content_pictures[numbers[changed]] = new.pictures[changed]

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

    def _checked_content(self, num_items: int, content: ItemContent | None) -> ItemContent:
        """Content of the right shape, type and device, with its pictures centred and normed."""
        config = self.config
        if config.item_rows == "free":
            raise ValueError("item_rows='free' makes nothing from content; choose item_rows='content' or 'both'.")
        ids, weights, pictures = (None, None, None) if content is None else content
        if ids is None or ids.ndim != 2 or len(ids) != num_items or weights is None or weights.shape != ids.shape:
            came = [None if each is None else tuple(each.shape) for each in (ids, weights)]
            raise ValueError(
                f"terms of shape {came[0]} and weights of shape {came[1]}: item_rows={config.item_rows!r} needs "
                f"({num_items}, length) of both, -1 and 0 where an item has no more terms."
            )
        if ids.numel() and int(ids.max()) >= config.num_terms:
            raise ValueError(
                f"the terms hold the number {int(ids.max())}: expected numbers below num_terms={config.num_terms}."
            )
        needed = (num_items, config.content_picture_size)
        if config.content_picture_size and (pictures is None or tuple(pictures.shape) != needed):
            came_pictures = None if pictures is None else tuple(pictures.shape)
            raise ValueError(f"pictures of shape {came_pictures}: content_picture_size asks for {needed}.")
        if not config.content_picture_size and pictures is not None:
            raise ValueError("pictures came, but content_picture_size is 0: set it to their width.")
        missing = max(config.content_length - ids.shape[1], 0)
        ids = nn.functional.pad(ids[:, : config.content_length], (0, missing), value=-1)
        weights = nn.functional.pad(weights[:, : config.content_length], (0, missing))
        like = self.input_rows.tokens
        # An offloaded model has the parameters elsewhere, which hooks bring, and these here.
        device = like.device if self.content_term_ids is None else self.content_term_ids.device
        if pictures is not None:
            assert self.picture_mean is not None
            mean = self.picture_mean.float().to(pictures.device)
            centred = (pictures.float() - mean) * pictures.any(dim=1, keepdim=True)
            pictures = nn.functional.normalize(centred, dim=1)
            pictures = pictures.to(device=device, dtype=like.dtype)
        return ItemContent(
            ids.to(device=device, dtype=torch.int32).contiguous(),
            (weights * (ids >= 0)).to(device=device, dtype=like.dtype).contiguous(),
            pictures,
        )


def _added(states: torch.Tensor, places: torch.Tensor, rows_PW: torch.Tensor) -> torch.Tensor:
    """`states` `(..., W)` with the row of its place added to each; places `(...)` are -1 where nothing is added."""
    has_place = places >= 0
    added = nn.functional.embedding(places[has_place], rows_PW)
    return states.index_put((has_place,), added.to(states.dtype), accumulate=True)
