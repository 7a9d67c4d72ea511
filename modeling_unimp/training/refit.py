"""A model for tomorrow: what validation chose, learnt again from all interactions.

A test needs what it keeps from the training: the latest interactions of each shopper, and all of some shoppers. Who
serves them wants these learnt, too. Nothing is chosen here, and nothing can be measured on what was held out any more.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
from transformers.trainer_utils import IntervalStrategy

from processing_unimp import Histories, Split, Targets, k_core, new_items_of

from ..hybrid_scores import HybridScores
from .recipe import DataArguments, UniMPTrainingArguments
from .star_fitting import refit_stars

TOLD = (
    "The saved model was then trained again on all of these interactions, with what validation had chosen (`refit`): "
    "the numbers are of the model before, and cannot be measured again on what this one has learnt."
)


def whole_shop(histories: Histories, data_args: DataArguments) -> Split:
    """All that there is to learn from: the core, and nothing that is asked."""
    core = k_core(histories, data_args.k_core) if data_args.k_core else histories
    nobody = Targets(core, np.zeros(0), np.zeros(0))
    new_items = new_items_of(core, core.item_counts(), histories.item_counts())
    return Split("all", core, nobody, nobody, new_items=new_items)


def steps_again(args: UniMPTrainingArguments, state: Any) -> UniMPTrainingArguments:
    """Arguments of a training of as many steps as the chosen checkpoint has; none is evaluated or kept on the way."""
    own = copy.copy(args)
    # Nothing of it lies where the other training would be resumed from: its checkpoints know what is asked there.
    own.output_dir = str(Path(str(args.output_dir)) / "refit")
    best = state.best_global_step if args.load_best_model_at_end else None
    own.max_steps = best or state.global_step
    own.eval_strategy = own.save_strategy = IntervalStrategy.NO
    own.load_best_model_at_end = own.push_to_hub = False
    return own


def refit_closed_form(fitted: HybridScores, whole: HybridScores, train: Histories) -> HybridScores:
    """The scores of all interactions, weighted and scaled as those of the training part were on validation.

    Args:
        fitted (`HybridScores`): of the training part, with its weights.
        whole (`HybridScores`): of all interactions.
        train (`Histories`): all interactions.
    """
    missing = {score.source for score in fitted.scores} - {score.source for score in whole.scores}
    assert not missing, missing  # what the part had, the whole has
    stars = None if fitted.stars is None else refit_stars(fitted.stars, train)
    again = whole.with_weights(fitted.weights, stars, fitted.search_reads)
    again.scores = list(fitted.scores)
    return again
