"""A request as one sequence: `[CLS]`, the items of its history, the question, `[ANS]`, the answer (paper, eq. 1 to 4).

What is learnt from it stands beside it: the answer, tokens of the history (context), and at each step of the history
what the shopper does next.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from transformers.utils import logging

from .all_tasks import TASKS
from .batch_pictures import BatchPictures
from .bounds import short_repr
from .item_text import ItemEntry, TokenSequence
from .sequence_rows import IGNORED, SequenceRow
from .task import Request, ShopperText

if TYPE_CHECKING:
    from .processing_unimp import UniMPProcessor

logger = logging.get_logger(__name__)

Piece = str | ShopperText | ItemEntry

# Kinds of labels.
TASK, CONTEXT, NEXT_ITEM = 1, 2, 3


class Block(NamedTuple):
    """An item of the history and how it is written."""

    entry: ItemEntry
    tokens: TokenSequence


def sequence_of(
    processor: "UniMPProcessor",
    request: Request,
    pictures: BatchPictures,
    *,
    labels: bool,
    context: str,
    next_item: bool,
    history_only: bool,
) -> SequenceRow:
    """See [`UniMPProcessor.__call__`]; a history that is too long loses its oldest items.

    Raises:
        ValueError: what the request has to have is missing, or its latest item and its question are too long.
    """
    task, entries = processor.task_of(request), _latest(processor, request)
    asks_nothing = history_only or (task.is_next_item and processor.history_format == "compact")
    question = TokenSequence() if asks_nothing else _question(processor, request, pictures)
    answer = SequenceRow() if history_only else _answer(processor, task.name, request, labels)
    room = processor.max_length - 1 - len(question) - len(answer.ids)
    blocks = _blocks(processor, entries, pictures, room)

    row = SequenceRow()
    row.append([processor.control.cls])
    ends = [len(row.ids)]
    for entry, block in blocks:
        wanted, kinds = [IGNORED] * len(block), [0] * len(block)
        if context != "none":
            wanted = [token if _in_context(processor, token, context) else IGNORED for token in block.ids]
            kinds = [CONTEXT if label != IGNORED else 0 for label in wanted]
        if next_item and entry.rating is not None:
            stars = block.ids.index(processor.control.star(entry.rating))
            wanted[stars], kinds[stars] = block.ids[stars], NEXT_ITEM
        row.append(block.ids, block.pictures, wanted, kinds)
        ends.append(len(row.ids))
    row.append(question.ids, question.pictures)
    # Where nothing is asked, the answer is one of the items that follow each other, and weighs as the others do.
    kinds = [NEXT_ITEM if kind and asks_nothing and next_item else kind for kind in answer.kinds]
    row.append(answer.ids, None, answer.labels, kinds)
    if next_item:
        following = [entry.number for entry, _ in blocks]
        last = None if asks_nothing or "next" not in request else processor.catalogue.number(request["next"])
        for end, number_after in zip(ends, [*following, last], strict=True):
            if number_after is not None:
                row.labels[end], row.kinds[end] = processor.control.item(number_after), NEXT_ITEM
    return row


def _question(processor: "UniMPProcessor", request: Request, pictures: BatchPictures) -> TokenSequence:
    """What is asked, and `[ANS]`."""
    pieces = processor.question_of(request)
    if any(isinstance(piece, ItemEntry) and piece.image is not None for piece in pieces):
        # As long as it is at least, so that no picture is opened in vain.
        missing = 1 + len(_written(processor, pieces, None)) - processor.max_length
        if missing > 0:
            raise ValueError(
                f"its question needs {missing} tokens more than max_length={processor.max_length}; ask about fewer "
                f"items, raise max_length or lower max_words (now {processor.max_words})."
            )
    return _written(processor, pieces, pictures)


def _written(processor: "UniMPProcessor", pieces: Sequence[Piece], pictures: BatchPictures | None) -> TokenSequence:
    tokens, item_text = TokenSequence(), processor.item_text
    for piece in pieces:
        if isinstance(piece, ItemEntry):
            item_text.write(tokens, piece, None if pictures is None else pictures.key(piece))
        elif isinstance(piece, ShopperText):
            tokens.extend(item_text.untrusted(piece.text))
        else:
            tokens.extend(item_text.phrase(piece))
    tokens.extend([processor.control.answer])
    return tokens


def _latest(processor: "UniMPProcessor", request: Request) -> list[ItemEntry]:
    """The latest items of the history, at most `history_length`; those before are looked up all the same, for the
    closed-form scores read them."""
    history, length = request.get("history"), processor.history_length
    if not isinstance(history, (list, tuple)):
        raise ValueError(
            f"the history is {short_repr(history)}: expected a list of items, the latest last; an empty one for a "
            "shopper of whom nothing is known."
        )
    if len(history) > length:
        logger.warning_once(
            f"Some histories are longer than history_length={length} items: of these the network reads only the "
            "latest; closed-form scores, where the model has them, have a limit of their own."
        )
    entries = [processor.item_text.resolve(item, f"history item {number}") for number, item in enumerate(history)]
    return entries[-length:]


def _blocks(
    processor: "UniMPProcessor", entries: Sequence[ItemEntry], pictures: BatchPictures, room: int
) -> list[Block]:
    """As many of the latest items as there is room for, in tokens."""
    blocks: list[Block] = []
    for entry in reversed(entries):
        tokens = TokenSequence()
        processor.item_text.write(tokens, entry, pictures.key(entry), processor.history_format == "compact")
        room -= len(tokens)
        if room < 0:
            break
        blocks.append(Block(entry, tokens))
    if not blocks and (entries or room < 0):
        raise ValueError(
            f"its latest item and its instruction need {-room} tokens more than max_length="
            f"{processor.max_length}; raise max_length or lower max_words (now {processor.max_words})."
        )
    if len(blocks) < len(entries):
        logger.warning_once(
            f"Some histories do not fit into max_length={processor.max_length} tokens: of these the network reads "
            "only the latest items that fit; closed-form scores, where the model has them, are not limited by it."
        )
    return blocks[::-1]


def _in_context(processor: "UniMPProcessor", token: int, context: str) -> bool:
    if context == "attributes":
        return token != processor.control.image
    if context == "id":
        return processor.control.item_number(token) is not None
    raise ValueError(f"context={context!r}: expected 'attributes', 'id' or 'none'.")


def _answer(processor: "UniMPProcessor", name: str, request: Request, labels: bool) -> SequenceRow:
    """What follows [ANS]: the answer with its labels, or at inference nothing, except the slots of a selection."""
    row, control = SequenceRow(), processor.control
    if TASKS[name].answer_group == "decisions":
        # The last slot's decision is the label of the position after it, so an eos token closes the row.
        entries = [processor.item_text.resolve(item, "a candidate") for item in request["candidates"]]
        row.append([control.answer if e.number is None else control.item(e.number) for e in entries])
        if labels:
            decisions = _target(processor, name, request)
            row.append([processor.tokenizer.eos_token_id])
            row.labels[1:] = decisions
            row.kinds[1:] = [TASK] * len(decisions)
    elif labels:
        target = _target(processor, name, request)
        read = [control.code(code) for code in request["noisy_codes"]] if "noisy_codes" in request else target
        row.append(read, None, target, [TASK] * len(target))
    return row


def _target(processor: "UniMPProcessor", name: str, request: Request) -> list[int]:
    if "answer" not in request:
        raise ValueError(f"labels=True but a {name} request has no 'answer'.")
    target = TASKS[name].target(request, processor.control, processor.catalogue)
    if isinstance(target, str):
        return [*processor.item_text.untrusted(target), processor.tokenizer.eos_token_id]
    return target
