"""FSDP2 from our own configuration: two processes train, evaluate, save, resume and answer as one does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

ROOT = Path(__file__).parent.parent
CONFIGURATIONS = ROOT / "recipes" / "accelerate"
ZERO = {"offload_optimizer_device": "none", "offload_param_device": "none"}
EXPECTED = {
    "ddp": (DistributedType.MULTI_GPU, {}, {}),
    "fsdp2": (DistributedType.FSDP, {"fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT"}, {}),
    "zero2": (DistributedType.DEEPSPEED, {}, {"zero_stage": 2} | ZERO),
    "zero3": (DistributedType.DEEPSPEED, {}, {"zero_stage": 3, "zero3_save_16bit_model": True} | ZERO),
}


def test_every_configuration_is_known():
    assert {file.stem for file in CONFIGURATIONS.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_configuration(name):
    path = CONFIGURATIONS / f"{name}.yaml"
    kind, fsdp, deepspeed = EXPECTED[name]
    config = load_config_from_file(str(path))
    assert (config.distributed_type, config.num_processes, config.mixed_precision) == (kind, 8, "bf16")
    assert fsdp.items() <= config.fsdp_config.items() and deepspeed.items() <= config.deepspeed_config.items()
    # The command of its head names it, and a recipe that there is.
    command = next(line for line in path.read_text().splitlines() if "accelerate launch" in line).split()
    assert command[command.index("--config_file") + 1] == f"recipes/accelerate/{name}.yaml"
    assert yaml.safe_load((ROOT / command[-1]).read_text())["bf16"]


RUN = """
import json, os, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

is_sharded = {configuration!r} is not None
if is_sharded:
    command = ["--config_file", {configuration!r}, "--mixed_precision", "no", "train.py"]
    asked = _validate_launch_command(launch_command_parser().parse_args(command))[0]
    environment = prepare_multi_gpu_env(asked)
    os.environ.update({{name: environment[name] for name in environment if "FSDP" in name}})

import tiny_training
import torch
from shop import REQUESTS
from modeling_unimp import PersonalizationPipeline

Arguments = tiny_training.UniMPTrainingArguments


def arguments(**kwargs):
    made = Arguments(**kwargs)
    assert made.world_size == int(os.environ["WORLD_SIZE"])
    if is_sharded:  # accelerate offers FSDP for accelerators alone; what comes after this choice runs on a CPU too
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return made


tiny_training.UniMPTrainingArguments = arguments
# Every second row has no picture, so that of two processes one has pictures and the other none.
ROWS = [
    {{"task": "recommend", "history": ["m1", "s1"], "answer": "h1", "next": "h1"}},
    {{"task": "recommend", "history": ["s2"], "answer": "h2", "next": "h2"}},
    {{"task": "rate", "history": ["h1", "m2"], "item": "s1", "answer": 4, "next": "s1"}},
    {{"task": "explain", "history": ["s2"], "item": "s2", "answer": "too small", "next": "m1"}},
] * 4


def make_trainer():
    made = tiny_training.make_trainer(
        {folder!r}, batch_size={batch_size}, evaluate=True, per_device_eval_batch_size=1,
        train_sampling_strategy="sequential",
    )
    made.args.load_best_model_at_end = False  # the weights of the last step are to be compared
    made.train_dataset = ROWS
    return made


def numbers_of(model, processor):
    cases = {{request["task"]: processor(requests=[request]) for request in REQUESTS[:5]}}
    scores, numbers = model.rank(top_k=6, **cases["recommend"])
    written = model.generate(**cases["explain"], max_new_tokens=4, do_sample=False)
    return [numbers.tolist(), scores.tolist(), model.stars(**cases["rate"]).tolist(), written.tolist()]


trainer = make_trainer()
trainer.train()
processor = trainer.processing_class
found = {{
    "world": trainer.args.world_size,
    "sharded": any(hasattr(each, "full_tensor") for each in trainer.bare_model.parameters()),
    "losses": tiny_training.losses(trainer),
    "norms": tiny_training.norms(trainer),
    "eval": {{k: v for e in trainer.state.log_history for k, v in e.items() if "eval_" in k and "sec" not in k}},
    "gates": trainer.bare_model.gate_openings(),
    "numbers": numbers_of(trainer.bare_model.eval(), processor),
}}
again = make_trainer()
again.train(resume_from_checkpoint={folder!r} + "/checkpoint-2")
found["resumed"] = tiny_training.losses(again)
again.save_merged_model({folder!r})
if again.is_world_process_zero():
    assert not any(hasattr(each, "full_tensor") for each in again.bare_model.parameters())
    found["answers"] = PersonalizationPipeline(model=again.bare_model, processor=processor)(REQUESTS[:5], top_k=4)
    print("FOUND", json.dumps(found))
"""


def run(folder, processes, configuration):
    script = folder / f"run_{processes}.py"
    out = str(folder / f"out_{processes}")
    batch_size = 2 // processes
    script.write_text(RUN.format(root=str(ROOT), folder=out, batch_size=batch_size, configuration=configuration))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--rdzv_backend", "c10d",
         "--rdzv_endpoint", "localhost:0", str(script)],
        capture_output=True, text=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    line = next((line for line in done.stdout.splitlines() if "FOUND" in line), None)
    assert line is not None, done.stderr[-5000:]
    return json.loads(line[line.index("{") :])


@pytest.mark.slow
def test_two_processes_under_fsdp2_are_one(tmp_path):
    one = run(tmp_path, 1, None)
    two = run(tmp_path, 2, str(CONFIGURATIONS / "fsdp2.yaml"))
    assert (one["world"], one["sharded"]) == (1, False) and (two["world"], two["sharded"]) == (2, True)
    assert len(one["losses"]) == 4 and one["losses"] == pytest.approx(two["losses"], rel=1e-4)
    assert one["norms"] == pytest.approx(two["norms"], rel=1e-3)
    assert one["eval"].keys() == two["eval"].keys() and one["eval"] == pytest.approx(two["eval"], rel=1e-4)
    assert one["gates"] == pytest.approx(two["gates"], rel=1e-4)
    # Right after the last step, when no gathered weights are left from a forward.
    (ranked, scores, stars, written), found = one["numbers"], two["numbers"]
    assert [ranked, written] == [found[0], found[3]]
    assert scores[0] == pytest.approx(found[1][0], rel=1e-4) and stars[0] == pytest.approx(found[2][0], rel=1e-4)
    assert two["resumed"] == pytest.approx(two["losses"], rel=1e-4)
    assert [answer.get("text") for answer in one["answers"]] == [answer.get("text") for answer in two["answers"]]
    shown = [[[item["item_id"] for item in a["items"]] for a in each["answers"][:2]] for each in (one, two)]
    assert shown[0] == shown[1]


def test_a_new_model_is_put_together_of_whole_weights_under_zero3():
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    from shop import make_model, make_model_processor
    from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

    processor = make_model_processor()
    expected = make_model(processor).state_dict()
    kept = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    assert kept.is_zero3() and is_deepspeed_zero3_enabled()
    found = make_model(processor).state_dict()
    assert is_deepspeed_zero3_enabled()
    assert {name: tensor.shape for name, tensor in found.items()} == {k: v.shape for k, v in expected.items()}
