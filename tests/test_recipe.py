"""Recipes: YAML and command line, what each kind of option takes, and what is said of one that is not there."""

import json
import os
import sys

import pytest
from transformers import TrainingArguments

from modeling_unimp import DataArguments, ModelArguments, UniMPConfig, UniMPTrainingArguments
from modeling_unimp.training import recipe as recipe_module
from modeling_unimp.training.recipe import parse_recipe
from processing_unimp import Catalogue, Histories
from processing_unimp.splits import by_time


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """`parse("--k_core", "3", recipe="tasks: [rate]")`: the three groups."""

    def parse(*words: str, recipe: str | None = None):
        if recipe is not None:
            (tmp_path / "recipe.yaml").write_text(recipe)
            words = ("--config", str(tmp_path / "recipe.yaml"), *words)
        monkeypatch.setattr(sys, "argv", ["train.py", *words, "--use_cpu", "--output_dir", str(tmp_path / "out")])
        return parse_recipe()

    return parse


def test_the_command_line_overrides_the_recipe(parse):
    recipe = (
        "k_core: 3\ntext_model: small\nlearning_rate: 1.0e-3\nfocal_gamma: 1\nuse_peft: true\nvision_model: null\n"
    )
    data, model, args = parse("--focal_gamma", "0.5", "--text_model", "base", "--exclude_seen", "false", recipe=recipe)
    assert (data.k_core, data.exclude_seen) == (3, False)
    assert (model.text_model, model.vision_model, model.use_peft) == ("base", None, True)
    assert (args.learning_rate, args.focal_gamma) == (1e-3, 0.5)


@pytest.mark.parametrize("number", ["2e-4", "2.0e-4", "0.0002"])
def test_numbers_that_yaml_reads_as_text(parse, number):
    assert parse(recipe=f"learning_rate: {number}")[2].learning_rate == 2e-4


def test_both_spellings_of_the_config_option(parse, tmp_path):
    (tmp_path / "other.yaml").write_text("k_core: 7")
    assert parse(f"--config={tmp_path / 'other.yaml'}")[0].k_core == 7


def test_dicts(parse):
    recipe = "unimp: {num_latents: 8, fusion: late}\ntask_weights:\n  rate: 2\n"
    _, model, args = parse(recipe=recipe)
    assert model.config_fields == {"num_latents": 8, "fusion": "late"} and args.task_weights == {"rate": 2}
    _, model, args = parse("--unimp", '{"num_latents": 4}', "--task_weights", '{"rate": 2, "explain": 0.5}')
    assert model.config_fields == {"num_latents": 4} and args.task_weights == {"rate": 2, "explain": 0.5}
    # The command line changes of a dict of the recipe what it names; an empty one leaves none of it.
    assert parse("--unimp", '{"num_latents": 4}', recipe=recipe)[1].config_fields == {
        "num_latents": 4,
        "fusion": "late",
    }
    assert parse("--task_weights", '{"explain": 3}', recipe=recipe)[2].task_weights == {"rate": 2, "explain": 3}
    assert parse("--task_weights", "{}", recipe=recipe)[2].task_weights == {}
    # Of tasks that the command line leaves out nothing is drawn, whatever their share was.
    recipe = "tasks: [recommend, search, rate]\ntask_shares: {search: 0.5, rate: 0.25}\n"
    data = parse("--tasks", "recommend", "rate", recipe=recipe)[0]
    assert (data.tasks, data.task_shares) == (["recommend", "rate"], {"rate": 0.25})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--do_train", "false"), "do_train: no effect"),
        (("--learning_rate", "-1"), "learning_rate=-1.0: expected 0 or more"),
        (("--seed", "-1"), "seed=-1: expected 0 or more"),
        (("--per_device_train_batch_size", "0"), "expected at least 1"),
        (("--accelerator_config", '{"x": 1}'), "cannot be read"),
        (("--dataloader_persistent_workers", "true"), "there are no workers"),
        (("--deepspeed", "nowhere.json"), "cannot be read"),
    ],
)
def test_values_that_no_run_can_have_are_told_at_once(parse, words, message):
    with pytest.raises(SystemExit, match=message):
        parse(*words)


def test_a_dict_of_a_recipe_may_be_json(parse):
    few = ("--unimp", '{"num_latents": 4}')
    _, model, _ = parse(*few, recipe='unimp: \'{"num_latents": 8, "fusion": "late"}\'\n')
    assert model.config_fields == {"num_latents": 4, "fusion": "late"}
    with pytest.raises(SystemExit, match="The recipe cannot be read: 'late' is not JSON"):
        parse(*few, recipe="unimp: late\n")


def test_arguments_made_in_python_take_json_too(tmp_path):
    args = UniMPTrainingArguments(output_dir=str(tmp_path), use_cpu=True, task_weights='{"rate": 2}')
    assert args.task_weights == {"rate": 2}
    assert ModelArguments(unimp='{"num_latents": 4}').config_fields == {"num_latents": 4}


def test_whole_numbers_are_fractions_too(parse):
    _, model, _ = parse(recipe="unimp: {dropout: 0, initial_gate: 1}\ntask_weights: {rate: 1}\n")
    config = UniMPConfig(**model.config_fields)
    assert (config.dropout, config.initial_gate) == (0, 1)
    assert UniMPConfig.from_dict(json.loads(config.to_json_string())).dropout == 0


def test_a_text_model_of_one_layer(parse):
    for fields in ("{cross_attention_every: 1}", "{fusion: late}"):
        assert parse(recipe=f"text_model: nano\nunimp: {fields}\n")[1].text_model == "nano"
    # Without pictures there is nothing to attend to; how many layers another model has shows when it is there.
    assert parse(recipe="text_model: nano\nvision_model: null\n")[1].vision_model is None
    parse(recipe="text_model: org/lm\nunimp: {cross_attention_every: 90}\n")


def test_lists(parse):
    assert parse("--tasks", "rate", "search")[0].tasks == ["rate", "search"]
    data, model, _ = parse("--lora_target_modules", "q_proj", "v_proj", recipe="tasks: [rate]\nattributes: title\n")
    assert (data.tasks, data.attributes) == (["rate"], ["title"])
    assert model.lora_target_modules == ["q_proj", "v_proj"]
    assert parse("--report_to", "none")[2].report_to == [] == parse(recipe="report_to: none\n")[2].report_to
    both = ["tensorboard", "wandb"]
    assert parse("--report_to", *both)[2].report_to == both == parse(recipe=f"report_to: {both}\n")[2].report_to


@pytest.mark.parametrize("moment", ["2020-09-15", "1600128000", "1.600128e9", "2020-09-15T02:00:00+02:00"])
def test_moments_are_dates_or_numbers(parse, moment):
    """The same in a recipe, quoted or not, and on the command line."""
    catalogue = Catalogue.from_items([{"item_id": item} for item in "ab"])
    rows = [
        {"user_id": "u", "item_id": item, "timestamp": 1600128000 + seconds}
        for item, seconds in (("a", -9), ("b", 0), ("a", 86400))
    ]
    histories = Histories.from_interactions(rows, catalogue)
    given = [
        parse("--validation_from", moment, "--test_from", "2020-09-16"),
        parse(recipe=f"validation_from: {moment}\ntest_from: 2020-09-16\n"),
        parse(recipe=f"validation_from: '{moment}'\ntest_from: 1600214400.0\n"),
    ]
    for data, _, _ in given:
        split = by_time(histories, data.validation_from, data.test_from)
        assert [len(part) for part in (split.train, split.validation, split.test)] == [1, 1, 1]
        assert split.train.num_interactions == 1


def test_environment_of_a_recipe(parse, monkeypatch):
    monkeypatch.setenv("UNIMP_TEST_ENVIRONMENT", "before")
    parse(recipe="env: {UNIMP_TEST_ENVIRONMENT: 3}")
    assert os.environ["UNIMP_TEST_ENVIRONMENT"] == "3"


@pytest.mark.parametrize(
    ("words", "recipe", "message"),
    [
        (["--learning_rtae", "1"], None, r"there is no learning_rtae \(did you mean learning_rate\?\)\.$"),
        ([], "learning_rtae: 1\n", r"there is no learning_rtae \(did you mean learning_rate\?\)\.$"),
        (["--qqqq", "1"], None, r"there is no qqqq\.$"),
        ([], "task_weight: {rate: 1}\n", r"no task_weight \(did you mean task_weights\?\)"),
        ([], "focal_gama: 1\nnum_latents: 4\n", r"no focal_gama \(did you mean focal_gamma\?\), no num_latents"),
        ([], "unimp: {num_latent: 3}\n", r"no unimp.num_latent \(did you mean unimp.num_latents\?\)"),
        (["--unimp", '{"fusoin": "late"}'], None, r"no unimp.fusoin \(did you mean unimp.fusion\?\)"),
        ([], "focal_gamma: -1\n", "focal_gamma=-1: expected 0"),
        ([], "context_loss: all\n", "context_loss='all': expected 'attributes'"),
        ([], "", "must contain a YAML mapping"),
        ([], "a: [\n", "while parsing"),
        (["--config", "nowhere.yaml"], None, "nowhere.yaml"),
        ([], "history_length: 5.5\n", r"history_length: 5.5: expected int\.$"),
        ([], "history_length: true\n", r"history_length: True: expected int\.$"),
        ([], "tasks: null\n", r"tasks: None: expected list\[str\]"),
        ([], "attributes: [5]\n", r"attributes: \[5\]: expected list\[str\]"),
        ([], "items: [a]\n", r"items: \['a'\]: expected str"),
        ([], "unimp: [1]\n", r"unimp: \[1\]: expected dict"),
        ([], "unimp: {num_items: 5}\n", r"unimp.num_items cannot be set: catalogue"),
        (["--unimp", '{"num_codes": 5}'], None, r"unimp.num_codes cannot be set"),
        (["--task_shares", '{"rate": "a"}'], None, r"task_shares: rate: 'a': expected a number"),
        ([], "task_weights: {rate: true}\n", r"task_weights: rate: True: expected a number"),
        ([], "task_shares: {rate: -1}\n", r"task_shares: rate: -1: expected a number from 0"),
        ([], "task_weights: {rate: .nan}\n", r"task_weights: rate: nan: expected a number from 0"),
        (["--task_weights", '{"rat": 2}'], None, r"no task_weights.rat \(did you mean task_weights.rate\?\)"),
        ([], "unimp: {num_latents: '8'}\n", r"unimp.num_latents: '8': expected int\.$"),
        ([], "unimp: {num_latents: true}\n", r"unimp.num_latents: True: expected int\.$"),
        (["--unimp", '{"dropout": "much"}'], None, r"unimp.dropout: 'much': expected float \| int\.$"),
        ([], "unimp: {initial_gate: .nan}\n", r"unimp.initial_gate is NaN"),
        ([], "unimp: {fusion: exclusiv}\n", r"unimp.fusion: 'exclusiv': expected one of exclusive, all, early"),
        ([], "unimp: {dropout: 1}\n", r"unimp.dropout=1: expected 0 or more and less than 1\.$"),
        ([], "unimp: {num_latents: 0}\n", r"unimp.num_latents=0: expected at least 1\.$"),
        (
            [],
            "text_model: nano\n",
            r"unimp.cross_attention_every=2 leaves no gated layer .* of 1 layers; expected",
        ),
        (["--gradient_accumulation_steps", "0"], None, "gradient_accumulation_steps=0: expected at least 1"),
        (["--bf16_full_eval", "true"], None, "bf16_full_eval=True has no effect"),
    ],
)
def test_what_cannot_be_read_is_said(parse, words, recipe, message):
    with pytest.raises(SystemExit, match=message) as error:
        parse(*words, recipe=recipe)
    assert str(error.value).startswith("The recipe cannot be read")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--unimp", "{num_latents: 4}"], "is not JSON"),
        (["--task_weights", "[1]"], "is a list: expected"),
        (["--k_core", "many"], "invalid int value: 'many'"),
    ],
)
def test_values_of_the_wrong_kind(parse, capsys, words, message):
    with pytest.raises(SystemExit):
        parse(*words)
    assert message in capsys.readouterr().err


def test_defaults_are_the_documented_ones(tmp_path):
    args = UniMPTrainingArguments(use_cpu=True)
    assert args.output_dir == "unimp" and args.learning_rate == 2e-4 and args.lr_scheduler_type == "cosine"
    assert args.warmup_steps == 0.01 and args.get_warmup_steps(1000) == 10
    assert not args.remove_unused_columns and args.ddp_find_unused_parameters
    assert args.eval_strategy == args.save_strategy == "epoch"
    assert args.load_best_model_at_end and args.save_total_limit == 2 and args.logging_steps == 50
    assert (args.focal_gamma, args.context_loss, args.context_weight) == (2.0, "attributes", 1.0)
    assert (args.next_item_weight, args.task_weights, args.loss_reduction) == (0.0, {}, "token")
    documented = UniMPTrainingArguments.__doc__
    own = set(UniMPTrainingArguments.__annotations__) - {"_VALID_DICT_FIELDS"}
    assert not {name for name in own if name not in documented} - {"metric_for_best_model"}


@pytest.mark.parametrize("strategy", ["eval_strategy", "save_strategy"])
@pytest.mark.parametrize("no", ["no", False])
def test_without_evaluations_or_checkpoints_the_last_step_is_the_model(tmp_path, caplog, strategy, no):
    """YAML reads `no` as false."""
    args = UniMPTrainingArguments(str(tmp_path), use_cpu=True, **{strategy: no})
    assert getattr(args, strategy) == "no" and not args.load_best_model_at_end
    assert f"{strategy}: no: no checkpoint can be chosen" in caplog.text


def test_every_option_says_what_it_is():
    for group in (DataArguments, ModelArguments, UniMPTrainingArguments):
        for name, option in group.__dataclass_fields__.items():
            assert option.metadata.get("help") or name in TrainingArguments.__dataclass_fields__, name
    names = [name for group in (DataArguments, ModelArguments) for name in group.__dataclass_fields__]
    assert len(names) == len(set(names)) and not set(names) & set(UniMPTrainingArguments.__dataclass_fields__)


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_reported_to_where_it_is_installed(parse, monkeypatch, installed):
    monkeypatch.setattr(recipe_module, "_tensorboard_is_installed", lambda: installed)
    assert parse()[2].report_to == (["tensorboard"] if installed else [])
    assert parse("--report_to", "none")[2].report_to == []
    assert parse(recipe="report_to: none")[2].report_to == []


def test_what_learns_by_default():
    assert ModelArguments().trained_part == "all" and ModelArguments().vision_is_trained
    pretrained = ModelArguments(text_model="org/lm", vision_model="org/tower")
    assert pretrained.trained_part == "new" and not pretrained.vision_is_trained
    chosen = ModelArguments(train_only="last_layer", train_vision=False)
    assert chosen.trained_part == "last_layer" and not chosen.vision_is_trained


def test_what_a_recipe_sets_the_command_line_can_take_away(parse):
    recipe = "tasks: [rate, imagine]\nimage_codec: train\nvision_model: tiny\n"
    data, model, _ = parse("--tasks", "none", "--image_codec", "none", "--vision_model", "None", recipe=recipe)
    assert (data.tasks, model.image_codec, model.vision_model) == ([], None, None)
    data, model, _ = parse(recipe=recipe)
    assert (data.tasks, model.image_codec, model.vision_model) == (["rate", "imagine"], "train", "tiny")
