"""What every UniMP model has in common: first values of its weights, saving with a manifest, loading with a check."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .backbones import is_unused_vision_part
from .configuration_unimp import UniMPConfig
from .gated_cross_attention import UniMPGatedCrossAttention
from .hybrid_scores import HYBRID_FILE
from .item_embeddings import UniMPItemEmbeddings, UniMPRows
from .manifest import check_weights, configs_in, write_manifest
from .partial_training import load_left_out
from .perceiver import UniMPPerceiverResampler

# What a file that is damaged makes of reading it.
_BROKEN = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError)


class UniMPPreTrainedModel(PreTrainedModel):
    config: UniMPConfig
    config_class = UniMPConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules: set[str] | list[str] | None = ["UniMPPerceiverBlock"]
    _skip_keys_device_placement = ["cache"]
    # Of the language model and the tower; the resampler and the gated cross-attention then take SDPA.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def post_init(self) -> None:
        super().post_init()
        # A vision tower also names the layers of its text half, and FSDP refuses a name that is not there.
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = [name for name in self._no_split_modules or () if name in present]

    @torch.no_grad()
    def initialize_weights(self) -> None:
        # transformers hands each module to its nearest PreTrainedModel: the gated cross-attention, inside the language
        # model, would go to one that does not know it, and its gates would stay uninitialised memory.
        for module in self.modules():
            if isinstance(module, UniMPGatedCrossAttention):
                for part in reversed(list(module.modules())):
                    self._initialize_weights(part)
        super().initialize_weights()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As `PreTrainedModel.save_pretrained`; a manifest.json says what the weights and the config are.

        Raises:
            ValueError: a model inside a `PeftModel`; nothing is saved then.
        """
        self.check_can_be_saved(state_dict)
        if is_main_process:
            self.save_beside(save_directory)
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if is_main_process:
            whole, index = Path(save_directory, SAFE_WEIGHTS_NAME), Path(save_directory, SAFE_WEIGHTS_INDEX_NAME)
            if whole.is_file() and index.is_file() and whole.stat().st_mtime_ns < index.stat().st_mtime_ns:
                whole.unlink()  # of an earlier save; it would be loaded in place of the shards
            weights = [*Path(save_directory).glob("model*.safetensors"), *Path(save_directory).glob(HYBRID_FILE)]
            write_manifest(save_directory, [*configs_in(save_directory), *sorted(file.name for file in weights)])
        if push_to_hub:
            known = (
                "commit_message",
                "commit_description",
                "private",
                "token",
                "revision",
                "create_pr",
                "tags",
                "max_shard_size",
            )
            given = {name: kwargs[name] for name in known if name in kwargs}
            self.push_to_hub(kwargs.get("repo_id", Path(save_directory).name), **given)

    def push_to_hub(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        """As `PreTrainedModel.push_to_hub`; what cannot be saved is refused before a repository is made."""
        self.check_can_be_saved()
        return super().push_to_hub(*args, **kwargs)

    def check_can_be_saved(self, weights: Iterable[str] | None = None) -> None:
        """Refuse names that peft gave to weights: a folder of them is no model and no adapters.

        Args:
            weights (`Iterable[str]`, *optional*): names of what is to be saved, by default all parameters.

        Raises:
            ValueError: a model inside a `PeftModel`.
        """
        if getattr(self, "_hf_peft_config_loaded", False):
            return  # of adapters that transformers itself added it saves these alone
        names = dict(self.named_parameters()) if weights is None else weights
        renamed = next((name for name in names if ".base_layer." in name or ".modules_to_save." in name), None)
        if renamed is not None:
            raise ValueError(
                f"the model has adapters of peft in its layers, such as beside {renamed}, and a folder of these "
                "weights would not load. Save what merge_and_unload() of the PeftModel returns, or the adapters alone "
                "with save_pretrained of the PeftModel."
            )

    def save_beside(self, save_directory: str | os.PathLike) -> None:
        """Save what a model keeps in files of its own, before its weights."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        output_loading_info: bool = False,
        verify: bool = True,
        **kwargs: Any,
    ) -> Any:
        """As `PreTrainedModel.from_pretrained`; weights that a checkpoint of trained weights leaves out
        (`trained_state_dict`) come from the backbones named in its config.

        Args:
            output_loading_info (`bool`, *optional*, defaults to `False`): as there; missing weights are in it, and no
                error.
            verify (`bool`, *optional*, defaults to `True`): whether weights have to be what was saved; a config that
                is not is told.

        Raises:
            ValueError: weights that are missing, damaged, exchanged or of other sizes than the config says, or a
                config that cannot be read.
        """
        name = pretrained_model_name_or_path
        if verify and name is not None and kwargs.get("state_dict") is None:
            check_weights(name, **kwargs)
        try:
            parent: Any = super()
            model, info = parent.from_pretrained(name, *args, output_loading_info=True, **kwargs)
        except _BROKEN as error:
            # Of this folder, or of a backbone that its config names.
            named = (str(name), "text_model=", "vision_model=")
            is_told = isinstance(error, ValueError) and any(word in str(error) for word in named)
            # An argument of the caller's that does not exist, such as of a way to quantise.
            if is_told or (isinstance(error, TypeError) and any(f"'{key}'" in str(error) for key in kwargs)):
                raise
            raise ValueError(
                f"the model in {str(name)!r} cannot be loaded ({type(error).__name__}: {error}). It may be "
                "damaged: copy, download or save it again."
            ) from error
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise ValueError(
                f"the weights in {str(name)!r} are of other sizes than its {CONFIG_NAME} says, as the report above "
                "lists: one of the two was damaged or exchanged. Copy, download or save the folder again; "
                "ignore_mismatched_sizes=True draws these weights anew."
            ) from error
        tower = "" if model.config.vision_config is None else model.config.vision_config.model_type
        lost = sorted(key for key in info["missing_keys"] if not is_unused_vision_part(key, tower))
        if lost and name is not None and verify and not output_loading_info:
            raise ValueError(
                f"the weights in {str(name)!r} lack {len(lost)}, such as {', '.join(lost[:3])}: random ones would "
                "take their place. Save the whole model again; verify=False loads it as it is."
            )
        return (model, info) if output_loading_info else model

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """As `PreTrainedModel.tie_weights`. When a checkpoint was read, weights that it leaves out are taken from the
        backbones first: otherwise transformers reports them as lost, and their tied ones as a damaged checkpoint."""
        if missing_keys:
            missing_keys -= load_left_out(self, missing_keys)
        super().tie_weights(missing_keys=missing_keys, recompute_mapping=recompute_mapping)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """The words' embedding as it is: ids of added tokens begin right after the words, so it cannot be resized."""
        size = self.config.text_config.vocab_size
        if new_num_tokens is not None and new_num_tokens != size:
            raise ValueError(
                f"cannot resize the words from {size} to {new_num_tokens}: ids of added tokens begin right after. "
                "Resize the language model before building UniMP on it; for more items, call add_items."
            )
        return self.get_input_embeddings()

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, UniMPGatedCrossAttention):
            init.constant_(module.attention_gate, self.config.initial_gate)
            init.constant_(module.feed_forward_gate, self.config.initial_gate)
        elif isinstance(module, UniMPPerceiverResampler):
            init.normal_(module.latents, std=1.0)
        elif isinstance(module, UniMPRows):
            init.normal_(module.tokens, std=std)
            if module.content is not None:
                # Weights and pictures are normed: rows come out as large as free ones.
                if module.content.terms is not None:
                    init.normal_(module.content.terms, std=std)
                if module.content.picture_proj is not None:
                    init.normal_(module.content.picture_proj.weight, std=std)
            if module.items is not None and module.content is not None:
                init.zeros_(module.items)
            elif module.items is not None:
                init.normal_(module.items, std=std)
        elif isinstance(module, UniMPItemEmbeddings):
            if module.code_places is not None and module.after_places is not None:
                init.normal_(module.code_places, std=std)
                init.zeros_(module.after_places)
            if module.content_term_ids is not None:
                init.constant_(module.content_term_ids, -1)
            for content in (module.content_term_weights, module.content_pictures, module.picture_mean):
                if content is not None:
                    init.zeros_(content)
        else:
            super()._init_weights(module)


def mark_initialised(module: nn.Module) -> None:
    """Keep pretrained weights from being drawn anew by `post_init`."""
    for part in module.modules():
        part._is_hf_initialized = True  # type: ignore[assignment]
