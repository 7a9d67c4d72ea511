"""Tensors in, answers out: the model, its training and its pipeline. Importing this registers all of it.

This is the one file of the folder that sees both packages; Hub export takes the other files of the folder along.

The network:
    configuration_unimp.py      its config
    backbones.py                language models and vision towers by name, or as a size to train from scratch
    open_clip_tower.py          vision towers of open_clip
    perceiver.py                resampler: the features of a picture to a fixed number of latents
    gated_cross_attention.py    text looks at latents
    packing.py                  rows of unequal length side by side, so that no padding is computed
    item_embeddings.py          input and output rows of items and other added tokens
    network.py                  all of these joined: tokens and pictures to hidden states
    focal_loss.py               loss of labelled tokens alone
    modeling_unimp.py           the network with its head: logits, ranking, generation
    assembly.py                 a new model on backbones
    pretrained_unimp.py         first values of weights, saving, loading
    partial_training.py         what learns, and what of it is saved
    manifest.py                 size and hash of saved weights

Answers:
    pipeline_unimp.py           requests to answers: preprocess, forward, postprocess
    answering.py                the steps that pipeline and evaluation share
    generation.py               how words are written: pictures and added tokens in `generate`
    user_state.py               a history read once, for any number of requests
    picture_latents.py          what is kept of pictures that were looked at
    weights_version.py          whether weights are still those that something was made with
    ranking.py                  the best items of logits
    hybrid_scores.py            closed-form scores beside the network's
    unknown_items.py            items that the training did not have, and what they stand for
    term_index.py               what queries find: words by BM25, whole values
    star_scores.py              stars by biases, similarity and factors
    attribution.py              what the score of a ranked item is made of
    imagining.py                search for items, write codes, compare pictures
    image_codec.py              pictures as codes and back
    interfaces.py               types of what comes from the other package

    batch_scoring.py            the older place of serving/batch_scoring.py

training/ and serving/ are never exported.
What only training needs is imported when it is first asked for, so that answering does not wait for peft, trl and the
trainer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from processing_unimp import UniMPProcessor

from .backbones import load_image_processor
from .configuration_unimp import UniMPConfig
from .image_codec import ImageCodec
from .modeling_unimp import UniMPForConditionalGeneration, UniMPModel
from .pipeline_unimp import PersonalizationPipeline
from .user_state import UserState

if TYPE_CHECKING:
    from .training.feature_store import FeatureStore
    from .training.low_rank_adapters import add_lora
    from .training.recipe import DataArguments, ModelArguments, UniMPTrainingArguments
    from .training.trainer import UniMPTrainer

__all__ = [
    "DataArguments",
    "FeatureStore",
    "ImageCodec",
    "ModelArguments",
    "PersonalizationPipeline",
    "UniMPConfig",
    "UniMPForConditionalGeneration",
    "UniMPModel",
    "UniMPTrainer",
    "UniMPTrainingArguments",
    "UserState",
    "add_lora",
    "load_image_processor",
]

_MODULE_OF = {
    "DataArguments": ".training.recipe",
    "FeatureStore": ".training.feature_store",
    "ModelArguments": ".training.recipe",
    "UniMPTrainer": ".training.trainer",
    "UniMPTrainingArguments": ".training.recipe",
    "add_lora": ".training.low_rank_adapters",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


AutoConfig.register("unimp", UniMPConfig, exist_ok=True)
# The full model on AutoModel too: what `AutoModel.from_pretrained("unimp")` gives can answer.
AutoModel.register(UniMPConfig, UniMPForConditionalGeneration, exist_ok=True)
AutoModelForCausalLM.register(UniMPConfig, UniMPForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(UniMPConfig, UniMPForConditionalGeneration, exist_ok=True)
AutoProcessor.register(UniMPConfig, UniMPProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "personalization",
    pipeline_class=PersonalizationPipeline,
    pt_model=AutoModel,
    default={"model": ("unimp", "main")},
    type="multimodal",
)
