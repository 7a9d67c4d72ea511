"""A recipe: a YAML file and what the command line changes in it, as three groups of arguments."""

import argparse
import difflib
import json
import sys
from collections.abc import Iterable
from typing import Any, get_origin

import yaml
from trl import TrlParser

from .configuration_unimp import UniMPConfig
from .training_args import DataArguments, ModelArguments, UniMPTrainingArguments


def parse_recipe() -> tuple[DataArguments, ModelArguments, UniMPTrainingArguments]:
    """Recipe and command line; a key that does not exist is an error that names the nearest one that does."""
    groups: Any = (DataArguments, ModelArguments, UniMPTrainingArguments)
    parser = TrlParser(groups)
    for action in parser._actions:
        if (get_origin(action.type) or action.type) is dict:
            # Its own reading of a dict on the command line is `dict(text)`, which no text passes.
            action.type = json_object
    argv = [part for word in sys.argv[1:] for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    try:
        data_args, model_args, args, unread = parser.parse_args_and_config(argv, return_remaining_strings=True)
        config_fields = model_args.config_fields
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"The recipe cannot be read: {error}") from error
    check_names(
        [word.lstrip("-").split("=")[0] for word in unread if word.startswith("--")] or unread,
        {action.dest for action in parser._actions},
    )
    check_names(config_fields, UniMPConfig.__annotations__, "unimp.")
    for group in (data_args, model_args):
        for action in parser._actions:
            if action.nargs == "+" and isinstance(getattr(group, action.dest, None), str):
                # YAML: `tasks: rate` for `tasks: [rate]`.
                setattr(group, action.dest, [getattr(group, action.dest)])
    return data_args, model_args, args


def json_object(text: str) -> dict[str, Any]:
    """A dict option of the command line."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error}): expected e.g. '{{\"rate\": 2}}'") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is a {type(value).__name__}: expected e.g. '{{\"rate\": 2}}'")
    return value


def check_names(names: Iterable[str], known: Iterable[str], prefix: str = "") -> None:
    """Refuse keys that a recipe cannot have."""
    unknown = []
    for name in set(names) - set(known):
        near = difflib.get_close_matches(name, known, n=1)
        unknown.append(f"{prefix}{name}" + (f" (did you mean {prefix}{near[0]}?)" if near else ""))
    if unknown:
        raise SystemExit(f"The recipe cannot be read: there is no {', no '.join(sorted(unknown))}.")
