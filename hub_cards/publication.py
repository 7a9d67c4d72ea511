"""Publishing at the end of a training; whether it can work is checked before."""

import logging
from pathlib import Path
from typing import Any

from .unimp_push import check_login, push

logger = logging.getLogger("train")


def publication_of(args: Any) -> dict[str, Any] | None:
    """What `push` is to be told, if anything; that it could not work is told now, not after the training.

    The Trainer itself pushes nothing: it would upload checkpoints, and a model without its catalogue and card.
    """
    if not args.push_to_hub:
        return None
    args.push_to_hub = False
    if args.hub_always_push or args.hub_strategy not in ("every_save", "end"):
        raise SystemExit("push_to_hub publishes the finished model: leave out hub_strategy and hub_always_push.")
    if args.hub_model_id is None:
        raise SystemExit("push_to_hub: no name to publish under. Add --hub_model_id ORG/NAME.")
    named = {"private": args.hub_private_repo, "revision": args.hub_revision, "token": args.hub_token}
    try:
        check_login(args.hub_model_id, args.hub_token)
    except (ValueError, PermissionError, ConnectionError) as error:
        raise SystemExit(f"push_to_hub: {error}") from error
    return {"repo_id": args.hub_model_id} | named


def publish(output_dir: Path, publication: dict[str, Any]) -> None:
    """Upload the finished model; a failure leaves it where it is."""
    try:
        logger.info(f"published {push(output_dir, **publication)}   (pictures stay here: unimp-push --with_pictures)")
    except (ValueError, PermissionError, ConnectionError) as error:
        raise SystemExit(
            f"push_to_hub: {error} The model is in {output_dir}/; to publish it later: unimp-push "
            f"{publication['repo_id']} --model_dir {output_dir}"
        ) from error
