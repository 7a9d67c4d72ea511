"""Rows in, tensors out: the catalogue, the histories, the tasks and the processor of UniMP."""

from .all_tasks import TASKS
from .catalogue import Catalogue
from .collator import UniMPCollator
from .demo_shop import make_demo_shop
from .evaluation_cases import EvaluationCases
from .history import Case, Histories, Interaction
from .processing_unimp import UniMPProcessor
from .splits import Split, Targets, by_time, hold_out_domain, k_core, leave_last_out
from .task import TASK_NAMES, ExampleSource
from .task_mixture import TaskMixture

__all__ = [
    "TASKS",
    "TASK_NAMES",
    "Case",
    "Catalogue",
    "EvaluationCases",
    "ExampleSource",
    "Histories",
    "Interaction",
    "Split",
    "Targets",
    "TaskMixture",
    "UniMPCollator",
    "UniMPProcessor",
    "by_time",
    "hold_out_domain",
    "k_core",
    "leave_last_out",
    "make_demo_shop",
]
