"""transformers' own test suites on UniMP; run where its tests are to be had, which no wheel holds.

    git clone --branch v5.24.0 --depth 1 https://github.com/huggingface/transformers
    TRANSFORMERS_TESTS=transformers python -m pytest -o addopts= tests/test_hf_suites.py

What fails is listed with its reason in hf_known_failures.py.
"""

import contextlib
import functools
import os
import sys
import unittest

import pytest
import torch
from hf_known_failures import FAILING_SUBTESTS, KNOWN_FAILURES
from shop import make_processor
from tiny_models import ANS, CLS, EOC, IMG, config_of, text_config

from modeling_unimp import UniMPConfig, UniMPForConditionalGeneration, UniMPModel
from processing_unimp import UniMPProcessor

if "TRANSFORMERS_TESTS" not in os.environ:
    pytest.skip("TRANSFORMERS_TESTS names no checkout of transformers", allow_module_level=True)
sys.path.insert(0, os.environ["TRANSFORMERS_TESTS"])

from tests.generation.test_utils import GenerationTesterMixin  # noqa: E402
from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin  # noqa: E402
from tests.test_processing_common import ProcessorTesterMixin  # noqa: E402
from transformers.models.auto import modeling_auto  # noqa: E402

# The suites ask these tables what kind of class they have before them.
modeling_auto.MODEL_MAPPING_NAMES["unimp"] = "UniMPModel"
modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["unimp"] = "UniMPForConditionalGeneration"


class Tester:
    """The sizes that the suites ask for, and a batch: each row with a picture of its own."""

    base_model_class = UniMPModel
    conditional_generation_class = UniMPForConditionalGeneration
    is_training = True
    batch_size, seq_length = 3, 13
    num_hidden_layers, num_attention_heads, hidden_size = 2, 2, 32

    def __init__(self, fusion, **overrides):
        self.fusion, self.overrides = fusion, overrides
        self.text_config = text_config("llama")
        if fusion != "none":
            self.vision_config = self.get_config().vision_config

    def get_config(self):
        config = config_of("llama", self.fusion, text={"max_position_embeddings": 512}, **self.overrides)
        if config.vision_config is not None:
            config.vision_config.num_hidden_layers = self.num_hidden_layers
        return config

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        generator = torch.Generator().manual_seed(int(torch.randint(0, 2**31, ()).item()))
        ids = torch.randint(3, config.text_config.vocab_size, (self.batch_size, self.seq_length), generator=generator)
        index, images = torch.zeros_like(ids), config.num_image_tokens
        ids[:, 0], ids[:, -1] = CLS, ANS
        ids[:, 1 : 1 + images], ids[:, images + 4] = IMG, EOC
        ids[:, images + 3] = config.group_slices["items"][0] + torch.arange(self.batch_size)
        index[:, 1 : images + 5] = torch.arange(1, self.batch_size + 1)[:, None]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if config.fusion != "none":
            pixels = torch.rand(self.batch_size, 3, 16, 16, generator=generator)
            inputs |= {"media_index": index, "pixel_values": pixels}
        return config, inputs


class Known:
    def setUp(self):
        torch.manual_seed(0)

    def __init_subclass__(cls):
        super().__init_subclass__()
        for name in KNOWN_FAILURES.keys() & set(dir(cls)):
            # Strict, so that what passes one day leaves the list.
            setattr(cls, name, pytest.mark.xfail(reason=KNOWN_FAILURES[name], strict=True)(getattr(cls, name)))
        for name in FAILING_SUBTESTS.keys() & set(dir(cls)):
            whole = without_subtests(getattr(cls, name))
            setattr(cls, name, pytest.mark.xfail(reason=FAILING_SUBTESTS[name], strict=True)(whole))


def without_subtests(test):
    """A test that fails with its first failing subtest; with subtests of its own it would pass whatever they do."""

    @functools.wraps(test)
    def run(self):
        self.subTest = lambda *_, **__: contextlib.nullcontext()
        test(self)

    return run


class Model(Known, ModelTesterMixin, GenerationTesterMixin):
    all_model_classes = (UniMPModel, UniMPForConditionalGeneration)
    _is_composite = True
    _torch_compile_train_cls = UniMPForConditionalGeneration
    tester = ("exclusive", {})

    def setUp(self):
        super().setUp()
        fusion, overrides = self.tester
        self.model_tester = Tester(fusion, **overrides)
        self.config_tester = ConfigTester(
            self, config_class=UniMPConfig, has_text_modality=True, num_items=7, num_latents=3
        )

    def test_config(self):
        self.config_tester.run_common_tests()


class ExclusiveTest(Model, unittest.TestCase):
    pass


class AllWithContentTest(Model, unittest.TestCase):
    tester = ("all", {"item_rows": "both", "item_at_eoc": True})

    def test_extra_prefill_in_chunks(self):
        with self.assertRaisesRegex(ValueError, "prefill_chunk_size"):
            super().test_extra_prefill_in_chunks()


class WithoutVisionTest(Model, unittest.TestCase):
    tester = ("none", {})

    def setUp(self):
        super().setUp()
        if "image_features" in self._testMethodName or "multimodal_outputs" in self._testMethodName:
            self.skipTest("no pictures")


class ProcessorTest(Known, ProcessorTesterMixin, unittest.TestCase):
    processor_class = UniMPProcessor

    @classmethod
    def _setup_from_components(cls):
        return make_processor()

    @staticmethod
    def prepare_processor_dict():
        return {"first_token_id": make_processor().first_token_id}


del Model
