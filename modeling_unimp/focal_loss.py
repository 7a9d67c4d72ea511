"""The token-reweighted objective (paper, eq. 5-8, https://huggingface.co/papers/2403.10667) on supervised rows only.

Eq. 8 weights each token's loss by `(1 - p) ** gamma`, p the probability of its label. It depends on the logits through
`nll = -log p` alone: `focal = (1 - exp(-nll)) ** gamma * nll`, so any cross-entropy gives it, and only positions with
a label go through the head. Eq. 5, 6 and 7 add up tasks and context: `weighted_loss`.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

IGNORED = -100
TASK, CONTEXT, NEXT_ITEM = 1, 2, 3
NUM_KINDS = 3
# Logits that the head makes at once, half a gigabyte in float32; bounds memory, not results.
LOGITS_AT_ONCE = 2**27


def supervised_rows(
    hidden_BTD: torch.Tensor, labels_BT: torch.Tensor, is_shifted: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states that predict a label `(n, D)`, and the labels `(n,)`, row by row.

    `labels[b, t]` is predicted from `hidden[b, t - 1]`, or of shifted labels from `hidden[b, t]`; -100 is no label.
    """
    if not is_shifted:
        hidden_BTD, labels_BT = hidden_BTD[:, :-1], labels_BT[:, 1:]
    supervised = labels_BT != IGNORED
    return hidden_BTD[supervised], labels_BT[supervised]


def token_nll(
    hidden: torch.Tensor, targets: torch.Tensor, project: Callable[[torch.Tensor], torch.Tensor], num_classes: int
) -> torch.Tensor:
    """`-log p` of each target, in float32; of many rows or classes some rows at a time, whose logits are made again
    for the gradient.

    Args:
        hidden (`torch.FloatTensor` of shape `(n, D)`)
        targets (`torch.LongTensor` of shape `(n,)`): columns of the logits.
        project (`Callable`): hidden states `(m, D)` to logits `(m, num_classes)`.
        num_classes (`int`)

    Returns:
        `torch.FloatTensor` of shape `(n,)`; on the graph also when n is 0, or processes of a group would wait for
        each other.
    """

    def some_rows(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(project(hidden).float(), targets, reduction="none")

    rows_at_once = max(LOGITS_AT_ONCE // num_classes, 1)
    if len(hidden) <= rows_at_once:
        return some_rows(hidden, targets)
    parts = zip(hidden.split(rows_at_once), targets.split(rows_at_once), strict=True)
    return torch.cat([checkpoint(some_rows, *part, use_reentrant=False) for part in parts])


def focal(nll: torch.Tensor, gamma: float) -> torch.Tensor:
    """`(1 - p) ** gamma * nll` of each token (paper, eq. 8); the weight is not detached, as in the released code.

    Its gradient is that of `nll` times `(1 - p) ** gamma - gamma * p * (1 - p) ** (gamma - 1) * log p`.

    Args:
        nll (`torch.FloatTensor`): `-log p`.
        gamma (`float`): 0 is plain cross-entropy; the released code defaults to 2.
    """
    if gamma < 0:
        raise ValueError(f"gamma={gamma}: expected 0 (plain cross-entropy) or more.")
    if gamma == 0:
        return nll
    # For gamma < 1 the power has an infinite slope at p = 1, which times nll = 0 would be NaN.
    miss = (-torch.expm1(-nll)).clamp(min=torch.finfo(nll.dtype).tiny)
    return miss**gamma * nll


def weighted_loss(
    nll: torch.Tensor, kinds: torch.Tensor, weights: torch.Tensor, denominators: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Loss of each kind; their sum is the objective (paper, eq. 5, 6 and 7).

    Args:
        nll (`torch.FloatTensor` of shape `(n,)`): of every supervised token.
        kinds (`torch.LongTensor` of shape `(n,)`): `TASK`, `CONTEXT` or `NEXT_ITEM`.
        weights (`torch.FloatTensor` of shape `(n,)`): weight of the token's task times that of its kind.
        denominators (`torch.FloatTensor` of shape `(3,)`): supervised tokens of each kind in the global batch; a kind
            with none contributes nothing.
        gamma (`float`): see `focal`.

    Returns:
        `torch.FloatTensor` of shape `(3,)`: task, context and next item.
    """
    sums = nll.new_zeros(NUM_KINDS).index_add(0, kinds - 1, weights.to(nll.dtype) * focal(nll, gamma))
    return sums / denominators.to(sums.dtype).clamp(min=1)
