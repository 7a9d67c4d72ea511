"""FSDP2 for a model of which a batch may leave parts unused: pictures, picture codes, ratings.

Every process takes part in every exchange of weights and gradients, whatever its own batch holds.
"""

from typing import Any

from transformers import TrainerCallback


def choose_units(plugin: Any, model: Any) -> None:
    """Name the modules whose weights are gathered by themselves, where the configuration names none.

    These are the layers of the language model, which every batch goes through. Tower and resampler are gathered with
    the rest at the beginning of a step: a process whose batch has no picture would skip them, and others wait for it.

    Args:
        plugin (`FullyShardedDataParallelPlugin`): what accelerate read of its configuration; changed in place.
        model (`UniMPForConditionalGeneration`)
    """
    if plugin.transformer_cls_names_to_wrap is None:
        language_model = model.model.language_model
        present = {type(module).__name__ for module in language_model.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(present & set(language_model._no_split_modules or ()))


class ShardedTraining(TrainerCallback):
    """Once accelerate has sharded the model: gradients of unused weights count as zeros, and all processes write texts
    of the same length."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not hasattr(model, "set_reduce_scatter_unused_params"):
            raise ValueError(
                "FSDP2 of this torch cannot train a model whose parts some batches leave unused: update torch, or "
                "train with recipes/accelerate/ddp.yaml or zero2.yaml."
            )
        # A process without a picture would exchange fewer gradients than the others expect.
        model.set_reduce_scatter_unused_params(True)
        # What transformers looks at before `generate`; it sets it for models that it has sharded itself.
        model._is_fsdp_managed_module = True
