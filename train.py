"""Recipe -> data -> model -> training -> evaluation -> a model folder that answers. The only training command.

accelerate launch train.py --config recipes/demo.yaml
accelerate launch train.py --config recipes/h_and_m/tiny.yaml --focal_gamma 1
accelerate launch train.py --config recipes/h_and_m/codec.yaml
accelerate launch train.py --config recipes/demo.yaml --push_to_hub true --hub_model_id ORG/NAME
accelerate launch train.py --items items.parquet --interactions interactions.parquet --query_attribute category
"""

import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import set_seed

from hub_cards.publication import publication_of, publish
from hub_cards.report import shoppers_of, write_report
from hub_cards.run_record import write_results
from modeling_unimp import PersonalizationPipeline
from modeling_unimp.imagining import CODEC_FOLDER
from modeling_unimp.training.defaults import fill_from_data
from modeling_unimp.training.evaluation import evaluate_model, format_table
from modeling_unimp.training.experiment import (
    add_closed_forms,
    check_names,
    check_output_folder,
    checkpoint_of,
    evaluation_cases_of,
    image_codec_of,
    keep_freed_memory,
    load_shop,
    mixture_of,
    model_of,
    processor_of,
    refit,
    split_histories,
    told,
    trainer_of,
    use_all_cores,
)
from modeling_unimp.training.hybrid_fitting import MOST_CASES
from modeling_unimp.training.initial_model import check_initial_model, leak_of
from modeling_unimp.training.item_similarity import term_vectors
from modeling_unimp.training.recipe import given_on_command_line, parse_recipe
from modeling_unimp.training.refit import TOLD
from processing_unimp.metrics.lists import ListMeasures

logger = logging.getLogger("train")


def main() -> None:
    started = time.time()
    data_args, model_args, args = parse_recipe()
    logging.basicConfig(format="%(message)s")
    for name in ("train", "processing_unimp"):
        logging.getLogger(name).setLevel(logging.INFO if args.should_log else logging.WARNING)
    output_dir = check_output_folder(str(args.output_dir))
    publication = publication_of(args)
    if model_args.initial_model is not None:
        check_initial_model(model_args.initial_model)
    use_all_cores(args)
    keep_freed_memory(args)
    set_seed(args.seed)

    # The shop, and what of it is held out.
    catalogue, histories = load_shop(data_args)
    if "config" not in (given := given_on_command_line()):
        with told("the shop cannot be split"):
            data_args, model_args, args = fill_from_data(data_args, model_args, args, given, catalogue, histories)
    check_names(catalogue, data_args)
    codec, codec_results = image_codec_of(catalogue, data_args, model_args, args)
    if not data_args.tasks:
        if args.should_save:
            report = write_report(output_dir, list, catalogue, [], {}, codec=codec_results)
            minutes = (time.time() - started) / 60
            logger.info(f"codec {output_dir / CODEC_FOLDER}/   report {report}   {minutes:.1f} minutes")
            if publication is not None:
                logger.warning("push_to_hub: a codec alone is not published. Train a model with it and push that.")
        return
    split = split_histories(histories, catalogue, data_args)
    if model_args.initial_model is not None:
        split.leaks += f" {leak_of(model_args.initial_model)}"
        logger.warning(leak_of(model_args.initial_model))

    # The model, and what it learns from.
    processor = processor_of(catalogue, split, codec, data_args, model_args)
    model, features = model_of(processor, codec, model_args, args)
    mixture = mixture_of(split, catalogue, data_args, args.seed)
    cases_of = partial(evaluation_cases_of, data_args=data_args, catalogue=catalogue)
    watched = cases_of(split.validation, max_cases=data_args.max_validation_cases)
    trainer = trainer_of(model, processor, features, split, mixture, args, watched)
    trainer.train(resume_from_checkpoint=checkpoint_of(trainer))
    validation = cases_of(split.validation, max_cases=MOST_CASES)
    closed_form, fit = add_closed_forms(trainer, validation, split, data_args, model_args)
    minutes = (time.time() - started) / 60

    # Validation has chosen; here, once, the test parts are touched.
    parts = {"test": split.test, "new users": split.new_users, "new domain": split.new_domain}
    lists = ListMeasures(split.train.item_counts(), term_vectors(catalogue))
    results = {
        part: evaluate_model(
            trainer, cases_of(targets, max_cases=data_args.max_test_cases), split.train, closed_form, lists
        )
        for part, targets in parts.items()
        if targets is not None and len(targets)
    }
    metrics = None if codec_results is None else codec_results["metrics"]

    def record(is_refit: bool) -> Path:
        """Write the numbers and the report of the tested model, beside the saved one; returns the report."""
        options = replace(data_args, refit=is_refit)
        write_results(output_dir, results, split, mixture, options, model_args, args, minutes, metrics, fit)
        unimp = PersonalizationPipeline(model=tested, processor=processor)
        answer = partial(unimp, exclude_seen=data_args.exclude_seen)
        # Cases cut to max_test_cases are other shoppers for every task; the report shows all tasks of a few.
        shown = shoppers_of(cases_of(split.test.sample(24, data_args.split_seed), max_cases=None))
        return write_report(output_dir, answer, catalogue, shown, results, codec_results, fit, is_refit)

    trainer.save_merged_model(output_dir)
    tested = trainer.bare_model
    if trainer.is_world_process_zero():
        report = record(is_refit=False)
        trainer.announce(format_table(results))
        trainer.announce(f"\nmodel {output_dir}/   report {report}   trained in {minutes:.1f} minutes")
    if data_args.refit:
        # Only now do the files say so: a run that ends before has saved the tested model.
        trainer = refit(trainer, histories, codec, data_args, model_args)
        trainer.save_merged_model(output_dir)
        split.leaks += f" {TOLD}"
        if trainer.is_world_process_zero():
            record(is_refit=True)
        logger.info(f"model {output_dir}/ is now that of all interactions; the numbers are of the one before")
    if publication is not None and trainer.is_world_process_zero():
        publish(output_dir, publication)


if __name__ == "__main__":
    main()
