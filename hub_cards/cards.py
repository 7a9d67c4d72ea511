"""A model's README.md and `.eval_results/` on the Hub, filled from what a run left behind.

Nothing that a seller, a recipe or a path says can become Markdown or YAML: it goes through `inline`, through `fenced`
or through YAML's own quoting. The wording is in model_card.md; data sets have dataset_cards.py.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from huggingface_hub.utils import HFValidationError, validate_repo_id

from modeling_unimp import DataArguments, UniMPTrainingArguments
from modeling_unimp.hybrid_scores import HYBRID_FILE, MAX_HISTORY
from modeling_unimp.training.evaluation import fit_in_words, rows_of
from processing_unimp import TASKS
from processing_unimp.catalogue import SPECIAL_COLUMNS

from .run_record import (
    PARTS,
    RESULTS,
    Results,
    TaskResult,
    each_task,
    number,
    path_parts,
    read_json,
    recipe_yaml,
    standing,
    without_machine_paths,
)
from .untrusted_text import fenced, inline, listed, one_line, pairs, table

try:  # comes with datasets
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("the catalogue's file is read with pyarrow; pip install datasets brings it") from error

TEMPLATE = Path(__file__).with_name("model_card.md")
EXAMPLES = 3  # items named in the lines of code
NO_LICENCE = "unknown"  # the Hub's own word for it

TASK_PHRASES = {
    "recommend": "recommends the next item",
    "search": "searches by a query and the shopper's taste",
    "rate": "predicts stars",
    "explain": "says in words why an item suits or does not",
    "select": "selects among candidates",
    "imagine": "draws a picture of an item that would suit",
}
SPLITS = {
    "leave_last_out": "**Leave last out**: a shopper's last interaction is the test, the one before it validation, "
    "the rest training",
    "by_time": "**By time**: training is what happened before one moment, the test is what happened after a later one",
}
CONTENTS = {
    "config.json": "architecture",
    "generation_config.json": "how explanations are generated",
    "*.safetensors": "weights",
    "catalogue.parquet": "the shop: ids and attributes of the items",
    "item_terms.json": "what items say and how much each term tells",
    "processor_config.json": "how items and pictures are read",
    "tokenizer*.json": "tokenizer of the language model",
    "image_codec": "codec between pictures and codes",
    "*.py": "code of model, processor and pipeline",
    "results.json": "all numbers with split, recipe and versions",
    "recipe.yaml": "what `train.py --config` reads to train it again",
    "report.html": "answers for a few shoppers beside what they really did",
}


def write_model_card(
    folder: Path,
    model_dir: Path,
    repo_id: str | None = None,
    *,
    license: str | None = None,
    dataset_id: str | None = None,
    dataset_revision: str | None = None,
) -> Path:
    """Write `README.md`, and with `dataset_id` also `.eval_results/<data set>.yaml`.

    Args:
        folder (`Path`): what will be published. The card lists what lies in it, so this comes last.
        model_dir (`Path`): what `train.py` saved, with its `results.json`; may be `folder`.
        repo_id (`str`, *optional*): the model repository, `ORG/NAME`; without it the lines of code name the folder.
        license (`str`, *optional*): the Hub's identifier; without it `apache-2.0` for the made-up shop and
            `"unknown"` for any other.
        dataset_id (`str`, *optional*): the data set repository that was trained and tested on. Only with it can the
            Hub link the results: its `.eval_results` belong to a data set, one that is registered as a benchmark.
        dataset_revision (`str`, *optional*): the commit of that repository.

    Returns:
        `Path`: the card.

    Raises:
        ValueError: `model_dir` holds no results or no config, or `repo_id` or `dataset_id` is no name of a repository.
    """
    folder, model_dir = Path(folder), Path(model_dir)
    for name in filter(None, (repo_id, dataset_id)):
        check_repo_id(name)
    record, config, processor = (
        read_json(model_dir / name, "a folder that train.py saved")
        for name in (RESULTS, "config.json", "processor_config.json")
    )
    found, recipe, split = record["results"], record.get("recipe") or {}, record.get("split") or {}
    options = vars(DataArguments()) | recipe.get("data", {})
    training = recipe.get("training", {})  # what differs from the defaults
    tables = [each / "catalogue.parquet" for each in (folder, model_dir) if (each / "catalogue.parquet").is_file()]
    if not tables:
        raise ValueError(f"{str(model_dir)!r} holds no catalogue.parquet: expected a folder that train.py saved.")
    shop, whole = (_Shop(table, processor.get("query_attribute")) for table in (tables[0], tables[-1]))
    made_up = "data" in recipe and options["items"] is None
    refit = options["refit"]
    own_name = "model before refit" if refit else "this model"
    data_name = (
        dataset_id.split("/")[-1] if dataset_id else "Made-up shop" if made_up else _data_name(options["items"])
    )
    license = license or ("apache-2.0" if made_up else NO_LICENCE)
    backbones = [config.get("text_model"), config.get("vision_model")]
    base_models = [str(name) for name in backbones if _is_hub_name(name)]
    protocol = split.get("name", "not recorded")
    address = repo_id or folder.resolve().name
    reads_pictures = config.get("vision_config") is not None
    item_rows = config.get("item_rows", "free")
    # It starts from pictures of the catalogue.
    refuses_imagine = "imagine" in options["tasks"] and not shop.has_pictures
    tasks = [task for task in options["tasks"] if not (task == "imagine" and refuses_imagine)]
    asked = (tasks or options["tasks"])[0]
    code = [path.name for path in folder.glob("*.py")]

    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text" if reads_pictures else "text-generation",
        license=license,
        base_model=base_models or None,
        datasets=[dataset_id] if dataset_id else None,
        tags=["unimp", "personalization", "recommendation", "sequential-recommendation"]
        + ["multimodal"] * reads_pictures,
        model_name=one_line(address.split("/")[-1]),
        eval_results=_eval_results(found, protocol, data_name, dataset_id, dataset_revision, refit) or None,
    )
    if not data.eval_results:
        data.model_name = None  # only means something together with results
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=inline(address.split("/")[-1]),
        summary=_model_summary(tasks, shop, processor, reads_pictures),
        backbones=_backbones(config),
        has_code=bool(code),
        usage_remote=fenced(_usage(address, shop, asked, remote=True), "python"),
        usage_package=fenced(_usage(address, shop, asked, remote=False), "python"),
        task_list=", ".join(f"`{task}` ({TASK_PHRASES[task]})" for task in tasks) or "none without its pictures",
        tasks=tasks,
        verbs=listed(tasks),
        ranks=not {"recommend", "search", "select"}.isdisjoint(tasks),
        has_rankings=any(task in ("recommend", "search") for _, task, _ in each_task(found)),
        is_chosen=training.get("load_best_model_at_end", UniMPTrainingArguments.load_best_model_at_end),
        reads_pictures=reads_pictures,
        refuses_imagine=refuses_imagine,
        pictures_left_out=(reads_pictures or refuses_imagine) and whole.has_pictures and not shop.has_pictures,
        refit=refit,
        results="\n\n".join(_results_table(part, by_task, own_name) for part, by_task in found.items() if by_task),
        trivial_wins=_trivial_wins(found),
        all_metrics=_metrics_table(found, own_name),
        fit=[
            f"{inline(task)}: {inline(fit_in_words(task, of_task))}."
            for task, of_task in (record.get("fit") or {}).items()
        ],
        data=_data_words(data_name, dataset_id, made_up, whole),
        split=_split_words(protocol, options),
        removed=counted(split.get("removed") or {}, "Nothing was removed."),
        leaks=inline(split.get("leaks") or "not recorded.", 2000),
        training_cases=", ".join(f"{task} {count:,}" for task, count in record.get("training_cases", {}).items()),
        recipe=fenced(recipe_yaml(recipe), "yaml"),
        minutes=inline(record.get("training_minutes", "?")),
        machine=pairs(record.get("machine", {})),
        versions=pairs(record.get("versions", {})),
        codec=_codec_words(record.get("image_codec")),
        history_length=processor.get("history_length", 5),
        closed_form_length=MAX_HISTORY if (folder / HYBRID_FILE).is_file() else None,
        has_closed_stars=bool((record.get("fit") or {}).get("rate")),
        item_rows=item_rows,
        has_report=(folder / "report.html").is_file(),
        weights_hold=_weights_hold(item_rows, options["k_core"], refit),
        own_tokenizer=config.get("text_model") is None,
        contents=_contents(folder, shop, code),
        licence=licence_words(license, "model"),
        base_models=", ".join(f"[{inline(name)}](https://huggingface.co/{name})" for name in base_models),
    )
    path = folder / "README.md"
    card.save(path)
    if dataset_id and found:
        write_eval_results(folder, found, protocol, dataset_id, dataset_revision, repo_id, refit=refit)
    return path


def write_eval_results(
    folder: Path,
    results: Results,
    split: str,
    dataset_id: str,
    dataset_revision: str | None = None,
    repo_id: str | None = None,
    *,
    refit: bool = False,
) -> Path:
    """Write the headline of every task as `.eval_results/<data set>.yaml`, as the Hub reads it.

    A task of the test part is the task of the same name in the data set's `eval.yaml`; one of another part has the
    part before it: `new_users_recommend`. With `refit` the notes say that the numbers are of the model before it.
    """
    entries = [
        EvalResultEntry(
            dataset_id=dataset_id,
            task_id=task if part == "test" else f"{_slug(part)}_{task}",
            value=number(of_task["model"][of_task["headline"]]),
            dataset_revision=dataset_revision,
            source_url=f"https://huggingface.co/{repo_id}" if repo_id else None,
            source_name="Model card" if repo_id else None,
            notes=f"{of_task['headline']}, {of_task['cases']} cases, {split}"
            + _interval_words(of_task, ", 95 % interval {}")
            + (", of the model before it was trained again on all interactions (refit)" if refit else ""),
        )
        for part, task, of_task in each_task(results)
        if number(of_task["model"][of_task["headline"]]) is not None
    ]
    path = Path(folder) / EVAL_RESULTS_FOLDER / f"{_slug(dataset_id.split('/')[-1])}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=1000)
    path.write_text(text, encoding="utf-8")
    return path


class _Shop:
    """What a card says about a saved catalogue; read without its pictures."""

    def __init__(self, path: Path, query_attribute: str | None) -> None:
        with pq.ParquetFile(path) as file:
            self.num_items = file.metadata.num_rows
            names = file.schema_arrow.names
            self.attributes = [name for name in names if name not in SPECIAL_COLUMNS]
            self.num_pictures = _count_pictures(file.metadata) if "image" in names else 0
            asked = ["item_id"] + [query_attribute] * (query_attribute in self.attributes)
            batch: Any = next(file.iter_batches(batch_size=EXAMPLES, columns=asked))
        self.item_ids: list[str] = batch.column("item_id").to_pylist()
        queries = batch.column(query_attribute).to_pylist() if len(asked) > 1 else []
        self.query = next((str(query) for query in queries if query is not None), "something new")

    @property
    def has_pictures(self) -> bool:
        return self.num_pictures is None or self.num_pictures > 0


def _count_pictures(metadata: Any) -> int | None:
    """Rows with a picture, from the statistics of the file; `None` when it has none."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(group.num_columns)]
    pictures = [column for column in columns if column.path_in_schema == "image.bytes"]
    if any(column.statistics is None or not column.statistics.has_null_count for column in pictures):
        return None
    return sum(column.num_values - column.statistics.null_count for column in pictures)


def _model_summary(tasks: Sequence[str], shop: _Shop, processor: Mapping, reads_pictures: bool) -> str:
    read = processor.get("attributes") or shop.attributes
    seen = "pictures, text, numbers and ids" if reads_pictures else "text, numbers and ids"
    does = listed([TASK_PHRASES[task] for task in tasks]) or "answers nothing without pictures of the items"
    return (
        f"One model reads a shopper's history ({seen}) and "
        f"{does}, among the {shop.num_items:,} items of its own catalogue. Of an "
        f"item it reads {listed([inline(name) for name in read]) or 'no attribute'}."
    )


def _backbones(config: Mapping) -> str:
    parts = []
    for kind, name in (("language model", "text"), ("vision tower", "vision")):
        part = config.get(f"{name}_config")
        if part is not None:
            origin = config.get(f"{name}_model")
            source = f"from {inline(without_machine_paths(origin))}" if origin else "from scratch"
            parts.append(f"a {kind} ({inline(part.get('model_type'))}, {source})")
    joined = "gated cross-attention" if config.get("fusion") in ("exclusive", "all", "late") else "their embeddings"
    if len(parts) < 2:
        return f"{parts[0]}, without pictures."
    return f"{' and '.join(parts)}, joined by a resampler and {joined} (fusion `{config.get('fusion')}`)."


def _usage(model: str, shop: _Shop, task: str, remote: bool) -> str:
    """Lines of code that answer a request with items of this shop."""
    *history, last = shop.item_ids if len(shop.item_ids) > 1 else shop.item_ids * 2
    more: dict[str, dict[str, Any]] = {
        "search": {"query": shop.query},
        "imagine": {"query": shop.query},
        "rate": {"item": last},
        "explain": {"item": last},
        "select": {"candidates": [last]},
    }
    request = as_python({"task": task, "history": history, **more.get(task, {})})
    ranks = ", top_k=3" if task in ("recommend", "search", "imagine") else ""
    class_ = [] if remote else ["from modeling_unimp import PersonalizationPipeline"]
    how = "trust_remote_code=True" if remote else "pipeline_class=PersonalizationPipeline"
    lines = [
        *class_,
        "from transformers import pipeline",
        "",
        f'unimp = pipeline("personalization", model={as_python(model)}, {how})',
        f"unimp({request}{ranks})",
    ]
    return "\n".join(lines)


def as_python(value: Any) -> str:
    text = repr(value)  # escapes invisible characters, such as marks that turn the direction of writing
    return text if '"' in text or "\\" in text else text.replace("'", '"')


def _results_table(part: str, by_task: Mapping[str, TaskResult], own_name: str) -> str:
    """One row a task: the headline of the model with its interval, beside every trivial baseline."""
    rows = []
    for task, of_task in by_task.items():
        headline, model = of_task["headline"], of_task["model"]
        skipped = f" ({of_task['skipped']:,} skipped)" if of_task.get("skipped") else ""
        less = "" if TASKS[task].higher_is_better else " (less is better)"
        trivial = "; ".join(
            f"{inline(who)} {_decimal(metrics.get(headline))}" for who, metrics in of_task["baselines"].items()
        )
        rows.append(
            [
                task,
                f"{of_task['cases']:,}{skipped}",
                f"{inline(headline)}{less}",
                f"**{_decimal(model[headline])}**{_interval_words(of_task, ' ({})')}",
                trivial or "none",
                _verdict(task, of_task),
            ]
        )
    about = f": {PARTS[part]}" if part in PARTS else ""
    head = ["task", "cases", "metric", f"{own_name} (95 % interval)", "trivial baselines", "better than all of them"]
    return f"**{inline(part).capitalize()}**{about}.\n\n{table(head, rows)}"


def _verdict(task: str, of_task: TaskResult) -> str:
    """Whether the model is ahead of the best trivial baseline."""
    compared = standing(task, of_task)
    if compared.verdict == "ahead" and not compared.has_interval:
        return "yes, but no interval"
    words = {"ahead": "yes", "behind": "no", "unclear": "unclear", "few": "too few cases", "unknown": "-"}
    return words[compared.verdict]


def _trivial_wins(results: Results) -> str:
    """The tasks whose best trivial baseline is at least as good as the model, with both numbers."""
    lost = []
    for part, task, of_task in each_task(results):
        compared = standing(task, of_task)
        if compared.is_matched:
            where = "" if part == "test" else f", {inline(part)}"
            numbers = f"{_decimal(compared.rival_value)} against {_decimal(compared.value)}"
            lost.append(f"{task}{where} ({inline(compared.rival)} {numbers})")
    return listed(lost)


def _metrics_table(results: Results, own_name: str) -> str:
    rows = []
    for part, task, of_task in each_task(results):
        for who, metrics in rows_of(of_task, own_name).items():
            numbers = ", ".join(f"{inline(name)} {_decimal(value)}" for name, value in metrics.items())
            rows.append([inline(part), task, inline(who), numbers])
    return table(["part", "task", "answers by", "metrics"], rows)


def _eval_results(
    results: Results,
    split: str,
    data_name: str,
    dataset_id: str | None,
    revision: str | None,
    refit: bool,
) -> list[EvalResult]:
    """Every metric of the model, for the `model-index` of the card."""
    before = ", before refit" if refit else ""
    return [
        EvalResult(
            task_type=task,
            task_name=task.capitalize(),
            dataset_type=dataset_id or _slug(data_name),
            dataset_name=one_line(data_name),
            dataset_split=_slug(part),
            dataset_revision=revision if dataset_id else None,
            dataset_args={"protocol": split, "cases": of_task["cases"]},
            metric_type=metric,
            metric_value=value,
            metric_name=f"{metric}{before}"
            + (_interval_words(of_task, " (95 % interval {})") if metric == of_task["headline"] else ""),
        )
        for part, task, of_task in each_task(results)
        for metric in of_task["model"]
        if (value := number(of_task["model"][metric])) is not None
    ]


def _interval_words(of_task: TaskResult, form: str) -> str:
    interval = of_task.get("interval")
    return "" if not interval else form.format(f"{_decimal(interval[0])} to {_decimal(interval[1])}")


def _data_words(name: str, dataset_id: str | None, made_up: bool, shop: _Shop) -> str:
    where = f"[{inline(dataset_id)}](https://huggingface.co/datasets/{dataset_id})" if dataset_id else inline(name)
    about = ", whose items, pictures, shoppers and words are made up by `processing_unimp.make_demo_shop`"
    pictures = f", {shop.num_pictures:,} of them with a picture" if shop.num_pictures else ""
    return f"Trained and tested on {where}{about if made_up else ''}: {shop.num_items:,} items{pictures}."


def _split_words(name: str, data: Mapping[str, Any]) -> str:
    words = SPLITS.get(name, f"Split {inline(name)}")
    if name == "by_time":
        words += f" (validation from {inline(data['validation_from'])}, test from {inline(data['test_from'])})"
    if name == "leave_last_out" and data.get("new_users"):
        words += f"; {data['new_users']:.0%} of the shoppers were left out altogether and are tested apart"
    if data.get("held_out_domain") is not None:
        words += f"; the domain {inline(data['held_out_domain'])} was held out"
    core = f" Shoppers and items with at least {data['k_core']} interactions each." if data.get("k_core") else ""
    again = (
        " This is the training that the numbers are of; after the test the model was trained again on all of these "
        "interactions (`refit`)."
    )
    return f"{words}.{core}{again if data['refit'] else ''}"


def _weights_hold(item_rows: str, k_core: int, refit: bool) -> str:
    own = (
        "the trained layers hold" if item_rows == "content" else "the vector of each item and the trained layers hold"
    )
    least = (
        f"Before the split, each item and each shopper had at least {k_core} interactions."
        if k_core > 1
        else "Here that can be a single person (`k_core` was not set)."
    )
    learnt = (
        "all shoppers did together, with all that was held out for validation and test (`refit`)"
        if refit
        else "all shoppers of the training part did together"
    )
    return (
        f"{own} what {learnt}. An item that few people took tells something "
        f"about those few. {least} Whether single histories can be drawn out of the weights was not tested."
    )


def _contents(folder: Path, shop: _Shop, code: Sequence[str]) -> str:
    rows = []
    for pattern, what in CONTENTS.items():
        found = sorted(path.name for path in folder.glob(pattern))
        if not found:
            continue
        if pattern == "catalogue.parquet":
            count = "" if shop.num_pictures is None else f"{shop.num_pictures:,} "
            what += f", with {count}pictures" if shop.has_pictures else ", **without pictures**"
        names = f"`{pattern}` ({len(code)} files)" if pattern == "*.py" else ", ".join(f"`{name}`" for name in found)
        rows.append([names, what])
    if not code:
        rows.append(["no code", "the package `unimp` must be installed"])
    return table(["file", "what it is"], rows)


def _codec_words(metrics: Mapping[str, Any] | None) -> str:
    if not metrics:
        return ""
    return pairs({name: _decimal(value) if isinstance(value, float) else value for name, value in metrics.items()})


def counted(removed: Mapping[str, int], nothing: str) -> str:
    return "\n".join(f"- {count:,} {inline(reason)}" for reason, count in removed.items()) or nothing


def _decimal(value: Any) -> str:
    known = number(value)
    return "-" if known is None else f"{known:.3f}"


def _slug(text: str) -> str:
    """A name of a file, a data set or a split: letters, digits, `-` and `_`."""
    return re.sub(r"[^a-z0-9_-]+", "_", text.lower()).strip("_")[:80] or "unnamed"


def _data_name(items: str | None) -> str:
    """The last part of a path to an items table that is a name of its own: `my-shop` of `data/my-shop/items.csv`."""
    parts = path_parts(items or "")
    names = [part for part in parts if not re.match(r"(items|catalogue)\.", part)] or parts or ["data not recorded"]
    return names[-1].split(".")[0] or names[-1]


def licence_words(license: Any, what: str) -> str:
    if license in (None, NO_LICENCE):
        return (
            f"**No licence has been named for this {what}.** Its owner fills in `license` at the top of this card; "
            "until then ask before you use it."
        )
    return f"This {what} is published as `{inline(license)}`."


def check_repo_id(repo_id: str, needs_owner: bool = False) -> None:
    """Refuse what the Hub does not take as the name of a repository; with `needs_owner` also a name without ORG/."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(
            f"{repo_id!r} is no name of a repository: {error} Expected ORG/NAME, such as my-shop/unimp-mugs."
        ) from error
    if needs_owner and "/" not in repo_id:
        raise ValueError(f"{repo_id!r} names no owner. Expected ORG/NAME, such as my-shop/{repo_id}.")


def _is_hub_name(name: str | None) -> bool:
    """Whether a backbone is a repository of the Hub: not a folder, nor a model of open_clip."""
    if name is None or ":" in name or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
