"""Who trains on a CPU is told of bfloat16 where it would gain."""

import pytest
import torch
from tiny_training import make_trainer

from modeling_unimp.training import bfloat16_probe


@pytest.mark.parametrize(
    ("width", "times", "is_told"), [(512, 3.24, True), (512, 1.1, False), (256, 1.5, True), (128, 9.0, False)]
)
def test_bfloat16_is_advised_where_it_is_faster(monkeypatch, width, times, is_told):
    monkeypatch.setattr(bfloat16_probe, "times_faster_in_bfloat16", lambda width: times)
    advice = bfloat16_probe.bfloat16_advice(width)
    assert (advice is not None) == is_told
    if is_told:
        assert f"width {width} {times:.1f} times as fast in bfloat16: --bf16 true" in advice


def test_the_probe_measures_and_draws_nothing():
    before = torch.get_rng_state()
    assert bfloat16_probe.times_faster_in_bfloat16(64) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("is_mixed", [False, True])
def test_a_training_in_float32_says_it(tmp_path, monkeypatch, capsys, is_mixed):
    monkeypatch.setattr("modeling_unimp.training.trainer.bfloat16_advice", lambda width: f"width {width}: try bf16")
    make_trainer(tmp_path, max_steps=1, bf16=is_mixed).train()
    said = capsys.readouterr()
    assert ("try bf16" in said.out + said.err) != is_mixed
