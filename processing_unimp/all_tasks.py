"""The tasks by name; what a request's `"task"` may be."""

from .bounds import short_repr
from .task import Task
from .task_explain import Explain
from .task_imagine import Imagine
from .task_rate import Rate
from .task_recommend import Recommend
from .task_search import Search
from .task_select import Select

TASKS: dict[str, Task] = {task.name: task for task in (Recommend(), Search(), Rate(), Explain(), Select(), Imagine())}


def task_of(request: dict) -> Task:
    """The task a request names, or a `ValueError` that lists them."""
    name = request.get("task")
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"a request with the task {short_repr(name)}: expected one of {', '.join(TASKS)}.")
    return TASKS[name]
