"""UniMPTrainer: the focal multi-task objective (paper, eq. 5-8), normalised over the global batch, and evaluation by
answering."""

import contextlib
import functools
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from processing_unimp import TASK_NAMES, EvaluationCases, UniMPCollator, UniMPProcessor
from processing_unimp.metrics.summary import more_is_better, summarise
from processing_unimp.task import Scores

from ..backbones import whole_weights
from ..focal_loss import CONTEXT, NEXT_ITEM, NUM_KINDS, TASK, focal, weighted_loss
from ..partial_training import frozen_as_they_were, hold_frozen_as_multiplied
from .bfloat16_probe import bfloat16_advice
from .checkpoints import (
    STATE,
    check_learnt_from,
    check_whole,
    is_evaluation_due,
    last_checkpoint,
    learnt_from,
    missing_state,
    note_learnt_from,
    note_whole,
)
from .epoch_rows import EpochCallback, EpochRows, EpochSampler, RandomOrder
from .evaluation import headline, score_cases
from .feature_store import FeatureStore
from .recipe import UniMPTrainingArguments
from .sharding import ShardedTraining, choose_units
from .termination import SaveOnTermination, begin_worker

logger = logging.get_logger(__name__)

KIND_NAMES = {TASK: "answer", CONTEXT: "context", NEXT_ITEM: "next_item"}


class OwnPadding(TrainerCallback):
    """Takes back the padding that the Trainer gives a model, its tokenizer's: a batch is padded with [PAD], of which
    `generate` makes the attention mask where none came."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.generation_config.pad_token_id = model.config.padding_token_id


class TrainingBar(ProgressCallback):
    """The Trainer's bar with the loss on it; all that is logged goes to the trackers, not over the screen."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            speed = f"{logs['tokens_per_second']:.0f}"
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}", tokens_per_second=speed)


class UniMPTrainer(Trainer):
    """A `Trainer` whose batches are those of `UniMPCollator`.

    Args:
        model (`UniMPForConditionalGeneration` or its `PeftModel`)
        args (`UniMPTrainingArguments`)
        processing_class (`UniMPProcessor`): the model's own.
        evaluation_cases (`Sequence[EvaluationCases]`, *optional*): what an evaluation during training answers.
        vision_features (`FeatureStore`, *optional*): frozen features of the catalogue's pictures.
        competing_items (`torch.BoolTensor` of shape `(N,)`, *optional*): what the loss may lower; without it all.
        task_names (`Sequence[str]`, *optional*): what `task_ids` of a batch index, which is always `TASK_NAMES`.
        data_collator (`UniMPCollator`, *optional*): made from the other arguments where it is left out.
        kwargs (*optional*): the other arguments of `Trainer`, but those that would have no effect.

    Logs, beside the Trainer's own: `loss/{task}_{kind}` (mean focal loss of a labelled token since the last line),
    `gate/{layer}_{attention|feed_forward}` (tanh of each gate), `tokens_per_second` and `share_supervised`.
    """

    args: UniMPTrainingArguments
    model: Any
    processing_class: Any
    # The loss is already divided by counts over the whole accumulated batch of all processes.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module | None = None,
        args: UniMPTrainingArguments | None = None,
        data_collator: Any = None,
        *,
        processing_class: UniMPProcessor | None = None,
        task_names: Sequence[str] = TASK_NAMES,
        evaluation_cases: Sequence[EvaluationCases] = (),
        vision_features: FeatureStore | None = None,
        competing_items: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics", "eval_dataset"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(
                    f"{name} has no effect: the loss is the focal loss of the paper, and an evaluation answers "
                    "evaluation_cases, whose task says how outputs are scored. Leave it out."
                )
        args = UniMPTrainingArguments() if args is None else args
        if not isinstance(args, UniMPTrainingArguments):
            raise ValueError(f"args is a {type(args).__name__}: expected UniMPTrainingArguments.")
        if not isinstance(processing_class, UniMPProcessor):
            raise ValueError(f"processing_class is a {type(processing_class).__name__}: expected a UniMPProcessor.")
        if tuple(task_names) != tuple(TASK_NAMES):
            raise ValueError(
                f"task_names={list(task_names)}: expected {list(TASK_NAMES)}, which `task_ids` of a batch index. "
                "Leave it out."
            )
        if data_collator is None:
            data_collator = UniMPCollator(
                processing_class, args.context_loss, args.next_item_weight > 0, vision_features=vision_features
            )
        if args.fp16 and args.device.type == "cpu":
            raise ValueError("fp16: a CPU computes in float32 or bfloat16. Leave it out, or say bf16.")
        # A JSON text was made a dict by TrainingArguments.
        weight_of: Any = args.task_weights
        unknown = set(weight_of) - set(TASK_NAMES)
        if unknown:
            raise ValueError(f"task_weights names {sorted(unknown)}; expected some of {', '.join(TASK_NAMES)}.")
        if strange := {name: weight for name, weight in weight_of.items() if not 0 <= weight < math.inf}:
            raise ValueError(f"task_weights: {strange}: expected finite numbers from 0.")
        if args.save_only_trained:
            if hasattr(model, "merge_and_unload"):
                raise ValueError(
                    "save_only_trained and use_peft do not go together: the adapters are merged into the language "
                    "model that would be left out. Leave out save_only_trained; adapter checkpoints are small anyway."
                )
            if model is not None:
                model.check_left_out()  # type: ignore[operator]
        # "loss" is what TrainingArguments puts in the place of None; an evaluation here has no loss.
        usable = [cases.task for cases in evaluation_cases if len(cases)]
        if evaluation_cases and not usable:
            logger.warning(
                "there is no validation case, of any task: no checkpoint can be chosen, and the last one is the model."
            )
            args.load_best_model_at_end = False
            args.metric_for_best_model = None  # or each evaluation would be asked for it
        if usable:
            if args.metric_for_best_model in (None, "loss"):
                args.metric_for_best_model = f"{usable[0].name}_{usable[0].headline}"
            # TrainingArguments takes all but a loss for something to be large.
            chosen = str(args.metric_for_best_model).removeprefix("eval_")
            args.greater_is_better = more_is_better(chosen, [task.name for task in usable])
        # The Trainer requires an `eval_dataset` to evaluate at all; `evaluate` takes `evaluation_cases`.
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            processing_class=processing_class,  # type: ignore[arg-type]
            eval_dataset=list(evaluation_cases) or None,
            **kwargs,
        )
        self.bare_model.check_processor(processing_class)
        rows: Any = self.train_dataset
        num_rows = len(rows) if hasattr(rows, "__len__") else math.inf
        batch = self._train_batch_size * args.world_size
        if args.dataloader_drop_last and num_rows < batch:
            raise ValueError(
                f"dataloader_drop_last: there are {num_rows} rows and a batch has {batch}, so that none is whole. "
                "Leave it out, or make batches smaller."
            )
        if not args.disable_tqdm:
            self.remove_callback(ProgressCallback)
            self.add_callback(TrainingBar)
        self._epochs = EpochCallback()
        self._termination = SaveOnTermination(self.accelerator)
        self.add_callback(self._epochs)
        self.add_callback(self._termination)
        self.add_callback(OwnPadding())
        if self.accelerator.is_fsdp2:
            choose_units(self.accelerator.state.fsdp_plugin, self.bare_model)
            self.add_callback(ShardedTraining())
        self.model_accepts_loss_kwargs = True
        self.evaluation_cases = list(evaluation_cases)
        self.vision_features = vision_features
        self.competing_items = None if competing_items is None else competing_items.to(args.device)
        self.task_weights = torch.tensor([float(weight_of.get(name, 1.0)) for name in TASK_NAMES])
        self.kind_weights = torch.tensor([1.0, args.context_weight, args.next_item_weight])
        self.last_results: dict[str, dict[str, float]] | None = None
        self._whole_frozen: dict[str, torch.Tensor] = {}
        self._learnt_from: dict[str, str] = {}
        self._resumed_from: str | None = None
        self._owes_evaluation = False  # of the step of that checkpoint
        self._forget_window()

    def _forget_window(self) -> None:
        """Reset the sums of the log, after each of its lines."""
        device = self.args.device
        self._loss_sums = torch.zeros(len(TASK_NAMES), NUM_KINDS, dtype=torch.float64, device=device)
        self._loss_counts = torch.zeros_like(self._loss_sums)
        self._tokens = torch.zeros((), dtype=torch.float64, device=device)
        self._since = time.perf_counter()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`. SIGTERM saves a checkpoint and raises `SystemExit`.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint, or `True` for the latest whole one.

        Raises:
            ValueError: no such checkpoint, or one that is damaged, was not written to its end, or learnt from another
                catalogue, tokenizer or other interactions.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"{self.args.output_dir} holds no whole checkpoint to resume from.")
        self._learnt_from = learnt_from(self.processing_class, self.train_dataset)
        self._resumed_from, self._owes_evaluation = None, False
        if isinstance(resume_from_checkpoint, str):
            self.check_checkpoint(resume_from_checkpoint)
            self._resumed_from = resume_from_checkpoint
            self._owes_evaluation = is_evaluation_due(resume_from_checkpoint, self.args)
            if lost := missing_state(resume_from_checkpoint):
                logger.warning(
                    f"{resume_from_checkpoint} has no {', '.join(lost)}: optimizer state, learning rate "
                    "or random state start anew, so the training will differ from one without interruption."
                )
        self._note_tasks()
        self._tell_of_bfloat16()
        on_start = self.args.eval_on_start
        self.args.eval_on_start = on_start or self._owes_evaluation
        try:
            with self._frozen_as_multiplied():
                result = super().train(resume_from_checkpoint or None, *args, **kwargs)
            self._end_after_late_signal()
            return result
        finally:
            self.args.eval_on_start = on_start
            self._termination.stop_listening()

    def check_checkpoint(self, folder: str) -> None:
        """Raises `ValueError` for a checkpoint that this training cannot go on from."""
        check_whole(folder)
        check_learnt_from(folder, learnt_from(self.processing_class, self.train_dataset))

    def _end_after_late_signal(self) -> None:
        """SIGTERM came after the last step, in its evaluation: the checkpoint of that step is there."""
        if self._termination.came():
            last = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            if last.is_dir():
                logger.warning(f"SIGTERM came in the last evaluation: the training ends, {last} is its checkpoint.")
                raise SystemExit(128 + signal.SIGTERM)
            logger.warning("SIGTERM came in the last evaluation, of a step that is not saved: the run goes on.")

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; in a folder that was moved the best checkpoint is where its name is."""
        begun = super()._init_training_state(*args, **kwargs)
        if self._resumed_from is not None and self.state.best_model_checkpoint is None:
            noted = TrainerState.load_from_json(os.path.join(self._resumed_from, STATE)).best_model_checkpoint
            moved = Path(self._resumed_from).parent / Path(noted).name if noted else None
            if moved is not None and moved.is_dir():
                logger.warning(f"The best checkpoint is taken from {moved}.")
                self.state.best_model_checkpoint = str(moved)
        return begun

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """As the Trainer's; what comes before the first step may be the evaluation that a checkpoint missed."""
        is_owed = skip_scheduler and self._owes_evaluation
        metrics: dict[str, float] = super()._evaluate(
            trial, ignore_keys_for_eval, skip_scheduler=skip_scheduler and not is_owed
        )
        if is_owed and self._determine_best_metric(metrics, trial):
            self.state.best_model_checkpoint = self._resumed_from
        return metrics

    def _note_tasks(self) -> None:
        """Write into the model's config what it learns, beside what an earlier training taught it."""
        drawn = {name for name, share in getattr(self.train_dataset, "probabilities", {}).items() if share}
        if not drawn:
            return
        learnt = {name for name, weight in zip(TASK_NAMES, self.task_weights, strict=True) if weight} & drawn
        if self.args.next_item_weight and self.processing_class.history_format == "compact":
            learnt.add("recommend")  # it asks nothing more than what follows each item of a history
        config = self.bare_model.config
        known = {*(config.trained_tasks or ()), *learnt}
        config.trained_tasks = [name for name in TASK_NAMES if name in known]

    def _tell_of_bfloat16(self) -> None:
        if self.args.device.type != "cpu" or self.args.bf16 or not self.is_world_process_zero():
            return
        if advice := bfloat16_advice(self.bare_model.config.text_config.hidden_size):
            self.announce(advice)

    @contextlib.contextmanager
    def _frozen_as_multiplied(self) -> Iterator[None]:
        """In mixed precision, see [`hold_frozen_as_multiplied`]; what they were again afterwards: tested, saved and
        found at the backbones by `save_only_trained` they are the same. Not where units are sharded, whose weights are
        of one type, nor with adapters, which are merged into what they were trained beside."""
        is_mixed = self.args.bf16 or self.args.fp16
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if not is_mixed or is_sharded or hasattr(self.model, "merge_and_unload"):
            yield
            return
        dtype = torch.bfloat16 if self.args.bf16 else torch.float16
        self._whole_frozen = hold_frozen_as_multiplied(self.bare_model, dtype)
        try:
            yield
        finally:
            for name, tensor in frozen_as_they_were(self.bare_model, self._whole_frozen).items():
                weight = self.bare_model.get_parameter(name)
                weight.data = tensor.to(weight.device)
            self._whole_frozen = {}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer's, and whole before an older one is deleted; ends the training after SIGTERM."""
        folder = self._get_output_dir(trial)
        checkpoint = os.path.join(folder, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            note_learnt_from(checkpoint, self._learnt_from)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        # Each process writes its own random state.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            note_whole(checkpoint)
            rotate_checkpoints(folder, limit, self.state.best_model_checkpoint, use_mtime=True)
        if self._termination.was_asked:
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise SystemExit(128 + signal.SIGTERM)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # A checkpoint has weights that are tied once, of which transformers would warn in every run.
        missing = [key for key in load_result.missing_keys if key not in self.bare_model.all_tied_weights_keys]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """The Trainer's, of [`EpochRows`]: a row depends on index and epoch alone, and none comes twice an epoch."""
        if not hasattr(self.train_dataset, "__len__"):
            if self.args.world_size > 1 or self.train_dataset is None:
                raise ValueError(
                    f"train_dataset is {type(self.train_dataset).__name__}: expected rows by number, such as a "
                    "TaskMixture; an iterable data set cannot be shared among processes."
                )
            return super().get_train_dataloader()
        loader: torch.utils.data.DataLoader = self._get_dataloader(
            dataset=EpochRows(self.train_dataset),
            description="Training",
            batch_size=self._train_batch_size,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )
        # accelerate's own loader goes through a loader of torch.
        of_torch = getattr(loader, "base_dataloader", loader)
        of_torch.worker_init_fn = functools.partial(begin_worker, os.getpid(), of_torch.worker_init_fn)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset.dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        is_split = self.accelerator.dataloader_config.split_batches
        global_batch = self._train_batch_size * (1 if is_split else self.args.world_size)
        order: torch.utils.data.Sampler[int] = RandomOrder(len(rows), seed)
        if self.args.train_sampling_strategy == "sequential":
            order = torch.utils.data.SequentialSampler(rows)
        needs_fillers = self.args.world_size > 1 and not self.args.dataloader_drop_last
        self._epochs.sampler = EpochSampler(rows, order, global_batch if needs_fillers else 1)
        return self._epochs.sampler

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's, with a separate learning rate for the embeddings of words, control tokens and codes."""
        is_ours = self.optimizer is None  # neither passed by the caller nor created before
        optimizer = super().create_optimizer(*args, **kwargs)
        scale = self.args.embedding_lr_scale
        if is_ours and scale != 1:
            embeddings = self.bare_model.model.item_embeddings
            rows = [self.bare_model.get_input_embeddings().weight, embeddings.code_places, embeddings.after_places]
            rows += [each.tokens for each in (embeddings.read, embeddings.write) if each is not None]
            ids = {id(row) for row in rows}
            for group in list(optimizer.param_groups):
                own = [parameter for parameter in group["params"] if id(parameter) in ids]
                if own:
                    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
                    optimizer.add_param_group({**group, "params": own, "lr": group["lr"] * scale})
        return optimizer

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Denominators of the loss by kind `(3,)`: labelled tokens, or requests that have any, of the global batch."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        counts = torch.zeros(NUM_KINDS)
        for batch in batch_samples:
            kinds = batch["label_kinds"].to("cpu")
            for kind in KIND_NAMES:
                labelled = kinds == kind
                counts[kind - 1] += (labelled if self.args.loss_reduction == "token" else labelled.any(dim=1)).sum()
        counts = counts.to(device)
        return self.accelerator.reduce(counts, reduction="sum") if self.args.world_size > 1 else counts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """`sum over labels of task weight * kind weight * focal(nll) / denominator of the kind`."""
        inputs = dict(inputs)
        task_ids, kinds = inputs.pop("task_ids"), inputs.pop("label_kinds")
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs | {"label_kinds": kinds}], self.args.device)
            assert num_items_in_batch is not None
        if model.training and self.args.sampled_items:
            inputs["sampled_items"] = self.args.sampled_items
        if model.training and self.competing_items is not None:
            inputs["competing_items"] = self.competing_items
        outputs = model(**inputs)
        supervised = inputs["labels"][:, 1:] != -100
        rows, _ = supervised.nonzero(as_tuple=True)
        kinds, tasks = kinds[:, 1:][supervised], task_ids[rows]
        weights = self.task_weights.to(kinds.device)[tasks] * self.kind_weights.to(kinds.device)[kinds - 1]
        if self.args.loss_reduction == "sample":
            own = torch.zeros(len(task_ids), NUM_KINDS, device=kinds.device)
            own.index_put_((rows, kinds - 1), torch.ones_like(weights), accumulate=True)
            weights = weights / own[rows, kinds - 1]
        loss = weighted_loss(outputs.nll, kinds, weights, num_items_in_batch, self.args.focal_gamma).sum()
        # DDP averages gradients over the processes; ours must be summed.
        loss = loss * self.accelerator.num_processes
        if model.training:
            where = (tasks, kinds - 1)
            losses = focal(outputs.nll.detach(), self.args.focal_gamma).double()
            self._loss_sums.index_put_(where, losses, accumulate=True)
            self._loss_counts.index_put_(where, torch.ones_like(losses), accumulate=True)
            # Fillers of a last batch have no labels, and are there with several processes alone.
            self._tokens += (inputs["attention_mask"] * supervised.any(dim=1, keepdim=True)).sum()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self._window())
        super().log(logs, start_time)

    def _window(self) -> dict[str, float]:
        sums, counts, tokens = self._loss_sums, self._loss_counts, self._tokens
        if self.args.world_size > 1:
            sums, counts, tokens = (self.accelerator.reduce(each, reduction="sum") for each in (sums, counts, tokens))
        seconds = time.perf_counter() - self._since
        logs = {
            f"loss/{name}_{KIND_NAMES[kind]}": (sums[task, kind - 1] / counts[task, kind - 1]).item()
            for task, name in enumerate(TASK_NAMES)
            for kind in KIND_NAMES
            if counts[task, kind - 1] > 0
        }
        logs["tokens_per_second"] = round(tokens.item() / seconds, 1)
        logs["share_supervised"] = round(counts.sum().item() / max(tokens.item(), 1), 4)
        logs.update({f"gate/{name}": value for name, value in self.bare_model.gate_openings().items()})
        self._forget_window()
        return logs

    @property
    def bare_model(self) -> Any:
        """The UniMP model itself, without the wrappers of DDP and PEFT."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Answer the evaluation cases, log one line and return `{prefix}_{task}_{metric}`."""
        started = time.perf_counter()
        cases_by_task = self.evaluation_cases if eval_dataset is None else eval_dataset
        if not isinstance(cases_by_task, list | tuple) or not all(
            isinstance(each, EvaluationCases) for each in cases_by_task
        ):
            raise ValueError(
                f"eval_dataset came as {type(cases_by_task).__name__}: expected a list of EvaluationCases, one a task."
            )
        scores = self.score_cases(cases_by_task)
        results = {
            cases.task.name: summarise(cases.task, scores[cases.task.name])
            for cases in cases_by_task
            if cases.task.name in scores
        }
        headlines = {cases.task.name: cases.task.headline for cases in cases_by_task}
        if self.is_world_process_zero():
            self.announce(f"step {self.state.global_step}: {headline(results, headlines, self.last_results)}")
        self.last_results = results
        metrics = {
            f"{metric_key_prefix}_{task}_{name}": value
            for task, values in results.items()
            for name, value in values.items()
        }
        metrics[f"{metric_key_prefix}_seconds"] = round(time.perf_counter() - started, 2)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        # Evaluation does not count as training time.
        self._since += time.perf_counter() - started
        return metrics

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Not of this Trainer: a prediction of all tokens of a batch is none of a shopper."""
        raise ValueError(
            "predict has no meaning here: ask `evaluate` for metrics, and PersonalizationPipeline or model.rank, "
            "model.stars and model.generate for answers."
        )

    def score_cases(self, cases_by_task: Sequence[EvaluationCases]) -> dict[str, Scores]:
        """Answer and score cases, shared among the processes; every process gets all scores, in order."""
        return score_cases(
            self.bare_model,
            self.processing_class,
            cases_by_task,
            batch_size=self.args.per_device_eval_batch_size,
            vision_features=self.vision_features,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            show_progress=self.is_world_process_zero() and not self.args.disable_tqdm,
        )

    def announce(self, line: str) -> None:
        """Print a line, without breaking a progress bar."""
        tqdm.write(line)

    def save_merged_model(self, folder: str | os.PathLike) -> None:
        """Save the model that answers: adapters merged into the language model, pictures in the catalogue.

        Of sharded weights the first process then has the whole model, as it was saved, so that it can answer alone.
        """
        if hasattr(self.model, "merge_and_unload"):
            self.model = self.model.merge_and_unload()
        self.save_model(str(folder))
        if self.accelerator.is_fsdp2 or is_deepspeed_zero3_enabled():
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                sharded = self.bare_model
                with whole_weights():
                    whole = type(sharded).from_pretrained(folder, dtype=sharded.dtype)
                self.model = self.model_wrapped = whole.to(self.args.device).eval()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Checkpoints leave the catalogue's pictures out; the model folder itself holds them."""
        folder = output_dir if output_dir is not None else self.args.output_dir
        if self._whole_frozen:
            state_dict = self.bare_model.state_dict() | frozen_as_they_were(self.bare_model, self._whole_frozen)
        if self.args.save_only_trained:
            trained = self.bare_model.trained_state_dict()
            # Of sharded weights the Trainer has gathered all, for the first process.
            state_dict = trained if state_dict is None else {k: v for k, v in state_dict.items() if k in trained}
        processor, self.processing_class = self.processing_class, None
        try:
            super()._save(folder, state_dict)
        finally:
            self.processing_class = processor
        if self.args.should_save and processor is not None:
            is_checkpoint = os.path.basename(str(folder)).startswith(PREFIX_CHECKPOINT_DIR)
            processor.save_pretrained(folder, save_pictures=not is_checkpoint)
