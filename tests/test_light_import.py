"""`import modeling_unimp` waits for nothing that only training, tables or pictures as answers need."""

import subprocess
import sys
from pathlib import Path

import pytest

import modeling_unimp
import processing_unimp

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"datasets", "diffusers", "duckdb", "open_clip", "pandas", "peft", "trl"}

IMPORT = """
import sys
import modeling_unimp
names = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(names & {heavy!r}), [name for name in sys.modules if name.startswith("modeling_unimp.training")])
from transformers import AutoConfig
from transformers.pipelines import PIPELINE_REGISTRY
print(AutoConfig.for_model("unimp").model_type, "personalization" in PIPELINE_REGISTRY.supported_tasks)
for name in modeling_unimp.__all__:
    exec(f"from modeling_unimp import {{name}}")
print("all names")
"""


def test_only_what_answering_needs_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(heavy=HEAVY)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.stdout.splitlines() == ["[] []", "unimp True", "all names"], done.stderr[-3000:]


@pytest.mark.parametrize("package", [modeling_unimp, processing_unimp])
def test_every_public_name_is_there(package):
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)


def test_another_name_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="'modeling_unimp' has no attribute 'Recipe'"):
        _ = modeling_unimp.Recipe
