"""Exact ranking of the catalogue: an item is one token, so one forward and one top-k are the whole beam search."""

import torch


def check_numbers(scores: torch.Tensor) -> torch.Tensor:
    """The same scores, of which none may be NaN; the error says what to do."""
    if torch.isnan(scores).any():
        raise ValueError(
            "the model's scores are no numbers: its weights are damaged, or too large for their type. Load it again, "
            "or with dtype=torch.float32 (torch.bfloat16 has the same range)."
        )
    return scores


def highest(scores: torch.Tensor, k: int) -> torch.Tensor:
    """Numbers of the k highest of each row, best first and equals by number, as a stable sort gives them.

    `topk` alone would choose any of those that are equal to the k-th; the time grows with N and not with its sort.

    Args:
        scores (`torch.FloatTensor` of shape `(B, N)`): infinities are numbers like others; NaN counts as `inf`.
        k (`int`): 0 to N.

    Returns:
        `torch.LongTensor` of shape `(B, k)`.
    """
    if k == 0:
        return torch.zeros(len(scores), 0, dtype=torch.long, device=scores.device)
    if torch.isnan(scores.sum()):  # or infinities that cancel out
        scores = scores.nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
    last = scores.topk(k, dim=-1).values[:, -1:]
    numbers = (scores >= last).nonzero()[:, 1]
    if len(numbers) > k * len(scores):  # ties for the last places
        above, ties = scores > last, scores == last
        first_ties = ties & (ties.cumsum(dim=-1, dtype=torch.int32) <= k - above.sum(dim=-1, keepdim=True))
        numbers = (above | first_ties).nonzero()[:, 1]
    numbers = numbers.view(-1, k)
    best_first = scores.gather(1, numbers).argsort(dim=-1, descending=True, stable=True)
    return numbers.gather(1, best_first)


def rank_items(
    logits: torch.Tensor, top_k: int, allowed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best items of each row, best first; equal scores in the order of their numbers.

    Args:
        logits (`torch.FloatTensor` of shape `(B, N)`): of every item.
        top_k (`int`): how many; fewer come back where fewer are allowed.
        allowed (`torch.BoolTensor` of shape `(N,)` or `(B, N)`, *optional*): items that may be ranked.

    Returns:
        `tuple`: probabilities among the allowed items, `(B, k)`, and item numbers, `(B, k)`; k is `top_k` or the most
        items that any row allows. A row that allows fewer ends in probability 0 and number -1.
    """
    if top_k < 1:
        raise ValueError(f"top_k={top_k}: expected at least 1.")
    scores = logits.float()
    if allowed is None:
        allowed = torch.ones_like(scores, dtype=torch.bool)
    else:
        if allowed.dtype != torch.bool or allowed.shape not in (scores.shape[-1:], scores.shape):
            raise ValueError(
                f"allowed is {allowed.dtype} of shape {tuple(allowed.shape)}: expected torch.bool of shape "
                f"{tuple(scores.shape[-1:])} or {tuple(scores.shape)}, True for an item that may be ranked."
            )
        allowed = allowed.to(scores.device).expand_as(scores)
    k = min(top_k, int(allowed.sum(dim=-1).max())) if scores.numel() else 0
    # Not allowed comes after all else, whatever the logits are.
    scores = scores.clamp(min=torch.finfo(scores.dtype).min).masked_fill(~allowed, float("-inf"))
    order = highest(scores, k)
    kept = allowed.gather(1, order)
    probabilities = (scores.gather(1, order) - scores.logsumexp(dim=-1, keepdim=True)).exp()
    return probabilities.masked_fill(~kept, 0.0), order.masked_fill(~kept, -1)
