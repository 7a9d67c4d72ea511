"""The benchmark beside OpenFlamingo: this model's side runs, and the table says what was measured."""

import torch

from benchmarks import peer


def test_a_step_is_done_and_a_top_is_what_the_model_ranks():
    side = peer.Ours(peer.SHAPES["tiny"], 2, "cpu", torch.float32)
    batch = side.batch
    inputs = {"input_ids": batch.input_ids, "media_index": batch.media_index, "vision_features": batch.features}
    with torch.inference_mode():
        ranked = side.model.rank(top_k=peer.TOP, attention_mask=torch.ones_like(batch.input_ids), **inputs)[1]
        assert side.top(batch, "features") == ranked.tolist()
    assert side.flops("pixels", "items") > side.flops("features", "items") > 0


def test_the_table_by_hand():
    by_side = {
        "ours": {"seconds": [0.1, 0.2, 0.3], "peak_gb": 1.0, "gflop": 10.0},
        "peer": {"seconds": [0.4, 0.6, 1.5], "peak_gb": 2.5, "gflop": 12.0},
    }
    found = {"shape": "tiny", "batch": 2, "device": "2 cores", "dtype": "float32", "compiled": False, "threads": 1}
    found |= {"torch": "2", "load": 0.5, "rounds": 3, "peak_gflops": 100.0, "rows": {"a step": by_side}}
    lines = peer.table(found).splitlines()
    assert lines[2] == "| | UniMP | OpenFlamingo | times | GB | of the peak |"
    # Quotients of the rounds are 4, 3 and 5; 10 GFLOP in .2 s are half of the peak.
    assert lines[-1] == "| a step | 200 ms | 600 ms | 4.0 | 1.0 / 2.5 | 50% / 20% |"
