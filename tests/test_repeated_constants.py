"""What both packages say, for an exported file of one cannot import the other."""

from modeling_unimp import backbones, configuration_unimp, focal_loss, term_index
from processing_unimp import (
    byte_level_bpe,
    control_tokens,
    item_terms,
    item_text,
    processing_unimp,
    request_sequence,
    sequence_rows,
)


def test_labels():
    assert focal_loss.IGNORED == sequence_rows.IGNORED
    ours = (focal_loss.TASK, focal_loss.CONTEXT, focal_loss.NEXT_ITEM)
    assert ours == (request_sequence.TASK, request_sequence.CONTEXT, request_sequence.NEXT_ITEM)


def test_words_and_numbers():
    assert term_index.WORD.pattern == item_terms.WORD.pattern and term_index.MOST_EXACT == item_text.MOST_EXACT


def test_groups_of_added_tokens():
    assert configuration_unimp.NUM_CONTROL == len(control_tokens.CONTROL_NAMES)
    assert configuration_unimp.NUM_STARS == control_tokens.NUM_STARS
    tokens = control_tokens.ControlTokens(0, num_codes=3)
    decisions = tokens.code(0) - tokens.decision(False)
    assert configuration_unimp.NUM_DECISIONS == decisions


def test_language_models_from_scratch():
    assert tuple(backbones.TEXT_SIZES) == processing_unimp.SCRATCH_SIZES
    assert backbones.SCRATCH_VOCABULARY_SIZE == byte_level_bpe.SCRATCH_VOCABULARY_SIZE
    tokenizer = byte_level_bpe.train_byte_level_bpe(["Red mug"])
    assert backbones.SCRATCH_END_OF_TEXT_ID == tokenizer.eos_token_id
