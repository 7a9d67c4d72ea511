"""Items that came after the training: who is asked what, and ranks, by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest
from shop import make_histories, make_model, make_model_processor

from benchmarks import cold_items, refit
from benchmarks.cold_items import Case
from modeling_unimp import PersonalizationPipeline
from processing_unimp import Catalogue, Histories


def test_tables_without_a_share_of_the_items():
    items = pa.table({"item_id": [str(number) for number in range(2_000)]})
    taken = pa.table({"user_id": ["u"] * 4_000, "item_id": [str(number % 2_000) for number in range(4_000)]})
    warm, interactions, cold = cold_items.without(items, taken, 0.25, seed=0)
    assert len(cold) == pytest.approx(500, abs=80) and len(warm) == 2_000 - len(cold)
    assert not {*cold} & {*warm["item_id"].to_pylist()} and len(interactions) == 2 * len(warm)
    assert {*interactions["item_id"].to_pylist()} == {*warm["item_id"].to_pylist()}
    assert cold_items.without(items, taken, 0.25, seed=0)[2] == cold != cold_items.without(items, taken, 0.25, 1)[2]


def test_who_is_asked():
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abcde"])
    taken = {"1": "abdc", "2": "dea", "3": "ab", "4": "adbe"}  # d and e are cold
    rows = [
        {"user_id": user, "item_id": item, "timestamp": place}
        for user, items in taken.items()
        for place, item in enumerate(items)
    ]
    histories = Histories.from_interactions(rows, catalogue)
    is_cold = np.array([False, False, False, True, True])
    # The second has no other item before a cold one, the third no cold one; of the fourth the last is asked.
    assert cold_items.cases_of(histories, is_cold) == [Case([0, 1], 3), Case([0, 1], 4)]


def test_ranks_by_hand():
    scores = np.array([9.0, 2.0, 3.0, 2.0, 1.0])
    case = Case([0], 1)
    assert cold_items.rank_of(scores, case) == 3, "behind the third, and behind what is level with it"
    assert cold_items.rank_of(scores, case, np.array([False, True, False, False, True])) == 1
    assert cold_items.by_chance(1) == 1 and cold_items.by_chance(2) == pytest.approx((1 + 1 / math.log2(3)) / 2)


def test_the_table_by_hand():
    """The first place counts 1 and the third 1 / 2; twice the same ratio in each case has no interval."""
    ours, theirs = np.array([1, 1]), np.array([3, 3])
    rows = cold_items.table({"x": (ours, theirs), "y": (theirs, theirs)}, (0.25, 1.0)).splitlines()
    assert rows[2] == "| x | 1.0000 [1.0000 - 1.0000] |  | 0.5000 [0.5000 - 0.5000] |  |"
    assert rows[3].startswith("| y | 0.5000 [0.5000 - 0.5000] | 2.00 [2.00 - 2.00] | 0.5000 ")
    assert rows[3].endswith("| 1.00 [1.00 - 1.00] |") and rows[4] == "| random | 0.2500 | | 1.0000 | |"


def test_similarity_to_a_history():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    (found,) = cold_items.alike(vectors, [Case([0, 1], 2)], half_life=1.0)
    np.testing.assert_allclose(found, vectors @ [0.5, 1.0])


def test_scores_are_in_the_order_of_the_table():
    """The added item stands last with the model, and elsewhere in the table of all."""
    unimp = PersonalizationPipeline(model=make_model(processor := make_model_processor()), processor=processor)
    catalogue = processor.catalogue
    histories = make_histories(catalogue)
    first = [histories.items_of(0).tolist()]
    items = [catalogue.item(item_id) for item_id in catalogue.item_ids]
    unimp.add_items([items[0] | {"item_id": "new"}])
    whole = Catalogue.from_items([{"item_id": "new"}, *items])
    cases = [Case([number + 1 for number in first[0]], 0)]
    (found,) = cold_items.scores_of(unimp.model, processor, cases, whole)
    answer = unimp(
        {"task": "recommend", "history": [whole.item_ids[number] for number in cases[0].history]},
        top_k=len(whole),
        exclude_seen=False,
    )
    order = [whole.item_ids[number] for number in np.argsort(-found, kind="stable")]
    assert [item["item_id"] for item in answer["items"]] == order


def test_who_is_asked_of_a_model_that_was_trained_again():
    catalogue = Catalogue.from_items([{"item_id": name} for name in "abcde"])
    rows = [
        {"user_id": user, "item_id": item, "timestamp": place}
        for user, items in {"1": "abcd", "2": "abae"}.items()
        for place, item in enumerate(items)
    ]
    # The last of each is kept for the test; what the second takes then is in the history, and cannot be ranked.
    assert refit.cases_of(Histories.from_interactions(rows, catalogue)) == [Case([0, 1], 2)]
