"""Trainable rows, in and out, of the tokens beyond a frozen vocabulary: control, stars, decisions, codes, items.

The idea is that of `IdeficsDecoupledEmbedding`; ours also makes an item's row from what the item is, and grows.
Shapes: V words, K added tokens that are no items, N items, W width of an embedding, C content tokens, G picture width.
"""

import torch
from torch import nn

from .configuration_unimp import UniMPConfig

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
    """One set of rows of the added tokens: those they are read with, or those they are written with."""

    def __init__(self, config: UniMPConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.tokens = nn.Parameter(torch.empty(config.num_added_tokens, width))
        self.items = nn.Parameter(torch.empty(config.num_items, width)) if config.item_rows != "content" else None
        self.content = UniMPItemContent(config) if config.item_rows != "free" else None


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
        self.read = UniMPRows(config)
        self.write = None if config.tie_item_rows else UniMPRows(config)
        # What a code means depends on where in the picture it stands, and distances to [ANS] tell that poorly.
        places = torch.empty(config.codes_per_picture, config.text_config.hidden_size)
        self.code_places = nn.Parameter(places) if config.codes_per_picture else None
        # Added to what is thought after the code at each place: which codes are usual at the next one needs no layers.
        self.after_places = nn.Parameter(torch.zeros_like(places)) if config.codes_per_picture else None
        has_content = config.item_rows != "free"
        has_pictures = has_content and config.content_picture_size > 0
        token_ids = torch.full((config.num_items, config.content_length), -1, dtype=torch.int32)
        self.register_buffer("content_token_ids", token_ids if has_content else None)
        pictures = torch.zeros(config.num_items, config.content_picture_size)
        self.register_buffer("content_pictures", pictures if has_pictures else None)

    def embed(self, added_ids: torch.Tensor, words: nn.Embedding) -> torch.Tensor:
        """Input rows of added tokens.

        Args:
            added_ids (`torch.LongTensor` of shape `(n,)`): ids less V.
            words (`nn.Embedding`): the language model's own rows, from which content rows are made.

        Returns:
            `torch.FloatTensor` of shape `(n, W)`.
        """
        num_tokens = self.config.num_added_tokens
        is_item = added_ids >= num_tokens
        rows = nn.functional.embedding(added_ids.masked_fill(is_item, 0), self.read.tokens)
        if is_item.any():
            # An item that a batch names often has its content row computed once.
            numbers, place = (added_ids[is_item] - num_tokens).unique(return_inverse=True)
            items = self._item_rows(self.read, words, numbers).to(rows.dtype)
            rows = rows.index_put((is_item,), items[place])
        return rows

    def output_tokens(self) -> torch.Tensor:
        """Output rows of control tokens, stars, decisions and codes `(K, W)`."""
        return (self.write or self.read).tokens

    def output_items(self, words: nn.Embedding) -> torch.Tensor:
        """Output rows of all items `(N, W)`."""
        return self._item_rows(self.write or self.read, words)

    def _item_rows(self, rows: UniMPRows, words: nn.Embedding, numbers: torch.Tensor | None = None) -> torch.Tensor:
        """Rows of some items, or of all."""
        free: torch.Tensor | None = rows.items
        if free is not None and numbers is not None:
            free = nn.functional.embedding(numbers, free)
        if rows.content is None:
            assert free is not None
            return free
        token_ids, pictures = self.content_token_ids, self.content_pictures
        assert token_ids is not None
        if numbers is not None:
            token_ids = token_ids[numbers]
            pictures = None if pictures is None else pictures[numbers]
        content = rows.content(mean_words(token_ids, words), pictures)
        return content if free is None else free + content

    def set_content(self, content_token_ids: torch.Tensor, content_pictures: torch.Tensor | None = None) -> None:
        """Say what the items are.

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

        The parameters are replaced by larger ones: build the optimizer afterwards.
        """
        if self.config.item_rows != "free":
            token_ids, pictures = self._checked_content(num_new, content_token_ids, content_pictures)
            assert self.content_token_ids is not None
            self.content_token_ids = torch.cat([self.content_token_ids, token_ids])
            if pictures is not None:
                assert self.content_pictures is not None
                self.content_pictures = torch.cat([self.content_pictures, pictures])
        elif content_token_ids is not None or content_pictures is not None:
            raise ValueError("item_rows='free' makes nothing from content: add items by their number alone.")
        for rows in (self.read, self.write):
            if rows is None or rows.items is None:
                continue
            old = rows.items
            if rows.content is not None:
                new = old.new_zeros(num_new, old.shape[1])
            elif len(old):
                new = old.mean(dim=0, keepdim=True).expand(num_new, -1)
            else:
                new = torch.randn(num_new, old.shape[1]).to(old) * self.config.initializer_range
            rows.items = nn.Parameter(torch.cat([old, new]), requires_grad=old.requires_grad)

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
        like = self.read.tokens
        token_ids = token_ids.to(device=like.device, dtype=torch.int32).contiguous()
        return token_ids, None if pictures is None else pictures.to(device=like.device, dtype=like.dtype)


def mean_words(token_ids: torch.Tensor, words: nn.Embedding) -> torch.Tensor:
    """Mean embedding of each row's words `(n, W)`; a row of nothing but -1 is zero.

    Args:
        token_ids (`torch.IntTensor` of shape `(n, C)`): -1 where there is no word.
        words (`nn.Embedding`): the language model's own rows.
    """
    means = []
    for part in token_ids.split(ITEMS_AT_ONCE):
        present = (part >= 0).to(words.weight.dtype)
        weights = present / present.sum(dim=1, keepdim=True).clamp(min=1)
        # The bag adds up without first laying out n * C embeddings.
        means.append(
            nn.functional.embedding_bag(part.clamp(min=0), words.weight, per_sample_weights=weights, mode="sum")
        )
    return torch.cat(means) if means else words.weight.new_zeros(0, words.weight.shape[1])
