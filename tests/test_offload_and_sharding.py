"""A model whose weights lie elsewhere, on the disk or with another process, answers and learns as a whole one does."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, disk_offload, infer_auto_device_map
from accelerate.utils import compute_module_sizes
from shop import REQUESTS, make_imagining_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.distributed import DistributedConfig

from modeling_unimp import PersonalizationPipeline, UniMPForConditionalGeneration
from modeling_unimp.answering import outputs_of


def answers_of(model, processor):
    """All six tasks; pictures as bytes, so that they can be compared."""
    answers = PersonalizationPipeline(model=model, processor=processor)(REQUESTS, max_new_tokens=4)
    return [
        {name: value.tobytes() if name == "picture" else value for name, value in answer.items()} for answer in answers
    ]


@pytest.fixture(scope="module")
def whole():
    model, processor = make_imagining_model(item_rows="both")
    return model, processor, answers_of(model, processor)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_offloaded_model_answers_as_before(tmp_path, whole, where):
    model, processor, expected = whole
    offloaded = copy.deepcopy(model)
    if where == "cpu":
        cpu_offload(offloaded, execution_device=torch.device("cpu"))
    else:
        disk_offload(offloaded, tmp_path, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in offloaded.parameters()} == {"meta"}
    offloaded.image_codec = model.image_codec
    assert answers_of(offloaded, processor) == expected


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_device_map_with_little_memory_answers_as_before(tmp_path, whole, share):
    """What `device_map="auto"` does where a model does not fit: some parts go to the disk."""
    model, processor, expected = whole
    model.save_pretrained(tmp_path / "model")
    most = {"cpu": int(compute_module_sizes(model)[""] * share), "disk": 10**12}
    placed = infer_auto_device_map(model, max_memory=most, no_split_module_classes=list(model._no_split_modules))
    assert "disk" in placed.values()
    loaded = UniMPForConditionalGeneration.from_pretrained(
        tmp_path / "model", device_map=placed, offload_folder=tmp_path / "offload"
    )
    assert any(parameter.device.type == "meta" for parameter in loaded.parameters())
    loaded.image_codec = model.image_codec
    assert answers_of(loaded, processor) == expected


@pytest.mark.parametrize("item_rows", ["content", "both"])
def test_an_offloaded_model_is_told_of_items(tmp_path, item_rows):
    """What rows are made from is at hand; rows of their own lie on the disk, where they cannot grow."""
    model, processor = make_imagining_model(item_rows=item_rows)
    model.save_pretrained(tmp_path / "model")
    request = {"task": "recommend", "history": ["m1", "s1"]}
    found = []
    for where in ({}, {"device_map": {"": "disk"}, "offload_folder": tmp_path / "offload"}):
        loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path / "model", **where)
        unimp = PersonalizationPipeline(model=loaded, processor=copy.deepcopy(processor))
        before = unimp(request)["items"]
        unimp.update_items([{"item_id": "m2", "title": "Grey hat", "category": "hat"}])
        assert unimp(request)["items"] != before
        new = [{"item_id": "new", "title": "Tin mug", "category": "mug"}]
        if where and item_rows == "both":
            with pytest.raises(ValueError, match="offloaded and cannot grow: load the model without device_map"):
                unimp.add_items(new)
            assert "new" not in unimp.processor.catalogue
        elif item_rows == "content":
            unimp.add_items(new)
        found.append(unimp(request, top_k=9)["items"])
    assert found[0] == found[1]


def numbers_of(model, processor):
    """What a model computes for every task, by every method."""
    cases = {request["task"]: processor(requests=[request]) for request in REQUESTS}
    greedy = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "synced_gpus": dist.is_initialized()}
    return {
        "rank": model.rank(top_k=3, **cases["recommend"]),
        "search": model.rank(top_k=3, **cases["search"]),
        "stars": model.stars(**cases["rate"]),
        "decisions": model.decisions(3, **cases["select"]),
        "written": model.generate(**cases["explain"], **greedy),
        "beams": model.generate(**cases["explain"], **greedy, num_beams=2),
        "picture": np.asarray(next(iter(outputs_of(model, processor, REQUESTS[5:], "codes")))["picture"]),
    }


def train_a_step(model, processor, optimizer):
    """Loss, norm of the gradient and how many weights have one."""
    batch = processor(
        requests=[
            {"task": "recommend", "history": ["m1", "s1"], "answer": "h1", "next": "h1"},
            {"task": "rate", "history": ["h1", "m2"], "item": "s1", "answer": 4},
        ],
        labels=True, context="attributes", next_item=True,
    )  # fmt: skip
    batch.pop("label_kinds")
    loss = model.train()(**batch).loss
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    gradients = [getattr(each, "full_tensor", lambda each=each: each)() for each in gradients]
    norm = torch.stack([each.double().square().sum() for each in gradients]).sum().sqrt()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()
    return [loss.item(), norm.item(), float(len(gradients))]


def check_close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def shard(model, how, mesh):
    parts = [model]
    if how != "whole":
        parts = [*model.model.language_model.layers, *parts]
    if how == "every part":
        parts = [model.model.resampler, model.model.vision_tower, *parts]
    for part in parts:
        fully_shard(part, mesh=mesh)


def sharded_as_one(rank, folder):
    """In each of two processes: a sharded copy beside a whole one, trained alike."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/fsdp", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for how, is_frozen in (("whole", False), ("layers", True), ("every part", False)):
        whole, processor = make_imagining_model(item_rows="both")
        if is_frozen:
            whole.freeze_backbones(train="new")
        sharded = copy.deepcopy(whole)
        sharded.image_codec = whole.image_codec
        shard(sharded, how, mesh)
        models = (whole, sharded)
        optimizers = [
            torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.05) for model in models
        ]
        for _ in range(2):
            steps = [train_a_step(m, processor, o) for m, o in zip(models, optimizers, strict=True)]
            torch.testing.assert_close(torch.tensor(steps[1]), torch.tensor(steps[0]), atol=1e-5, rtol=1e-4)
            # Right after a step, when no gathered weights are left from a forward.
            expected, found = (numbers_of(model, processor) for model in models)
            check_close(found, expected)
    dist.destroy_process_group()


def test_two_processes_under_fully_shard_train_rank_and_write_as_one(tmp_path):
    torch.multiprocessing.start_processes(sharded_as_one, (str(tmp_path),), nprocs=2, start_method="forkserver")


def split_as_one(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/tp", rank=rank, world_size=2)
    for name in ("tied", "untied"):
        _, processor = make_imagining_model(item_rows="both")
        whole = UniMPForConditionalGeneration.from_pretrained(f"{folder}/{name}")
        split = UniMPForConditionalGeneration.from_pretrained(
            f"{folder}/{name}", distributed_config=DistributedConfig(tp_size=2)
        )
        layer = split.model.language_model.layers[0].mlp.up_proj
        assert layer.weight.to_local().shape[0] * 2 == layer.weight.shape[0]
        check_close(numbers_of(split, processor), numbers_of(whole, processor))
    dist.destroy_process_group()


def test_two_processes_under_tensor_parallelism_rank_and_write_as_one(tmp_path):
    model, _ = make_imagining_model(item_rows="both")
    assert model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "tied")
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.1)
    model.save_pretrained(tmp_path / "untied")
    torch.multiprocessing.start_processes(split_as_one, (str(tmp_path),), nprocs=2, start_method="forkserver")
