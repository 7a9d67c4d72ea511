"""Ids of added tokens: the layout is the contract between processor, model and saved checkpoints."""

import pytest

from processing_unimp.control_tokens import ControlTokens


def test_the_layout_is_the_documented_one():
    tokens = ControlTokens(base=100, num_codes=3)
    assert [tokens.cls, tokens.image, tokens.eoc, tokens.answer, tokens.pad] == [100, 101, 102, 103, 104]
    assert [tokens.star(k) for k in range(1, 6)] == [105, 106, 107, 108, 109]
    assert [tokens.decision(False), tokens.decision(True)] == [110, 111]
    assert [tokens.code(k) for k in range(3)] == [112, 113, 114]
    assert tokens.item(0) == 115


def test_names_read_back_every_id():
    tokens = ControlTokens(base=10, num_codes=2)
    names = [tokens.name(i) for i in range(10, 26)]
    assert names == (
        ["[CLS]", "[IMG]", "[EOC]", "[ANS]", "[PAD]"]
        + [f"<rate_{k}>" for k in range(1, 6)]
        + ["<no>", "<yes>", "<code_0>", "<code_1>", "<item_0>", "<item_1>"]
    )
    assert tokens.item_number(tokens.item(7)) == 7
    assert tokens.item_number(tokens.pad) is None


@pytest.mark.parametrize("call", [lambda t: t.star(0), lambda t: t.star(6), lambda t: t.code(2), lambda t: t.name(9)])
def test_ids_out_of_range_are_refused(call):
    with pytest.raises(ValueError):
        call(ControlTokens(base=10, num_codes=2))
