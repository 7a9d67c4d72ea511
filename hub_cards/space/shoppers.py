"""Shoppers to choose from: some of the made-up shop; none of any other, whose model comes without histories."""

from typing import Any

from processing_unimp import Histories, make_demo_shop

NUM_READY = 4
LEAST_ITEMS = 24  # of a made-up shop


def ready_shoppers(catalogue: Any, most: int) -> list[list[dict[str, Any]]]:
    """The first shoppers of the made-up shop, without the last item of each: as the test asks about them.

    Args:
        catalogue (`Catalogue`): of the model; an empty list comes back unless it is the made-up shop's.
        most (`int`): items of a history, the latest.
    """
    if "mug-001" not in catalogue or "title" not in catalogue.attributes:
        return []
    items, interactions = make_demo_shop(max(len(catalogue), LEAST_ITEMS), num_shoppers=NUM_READY)
    own = list(zip(catalogue.item_ids, catalogue.column("title"), strict=True))
    if own != [(item["item_id"], item["title"]) for item in items]:
        return []
    histories = Histories.from_interactions(interactions, catalogue)
    return [
        [{"item_id": event.item_id, "rating": event.rating} for event in histories[user][:-1][-most:]]
        for user in sorted(histories)
    ]
