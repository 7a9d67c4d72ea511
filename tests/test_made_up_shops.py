"""The shops that benchmarks make, and what can be known of one."""

import numpy as np
import pytest

from benchmarks import fashion_shop, grocery_shop, taste_shop, walking_shop
from benchmarks.taste_bound import posterior_shares, ranks
from processing_unimp import Catalogue, Histories
from processing_unimp.metrics.ranking import ndcg


@pytest.mark.parametrize(
    "write_shop", [shop.write_shop for shop in (walking_shop, taste_shop, grocery_shop, fashion_shop)]
)
def test_a_made_up_shop_is_a_shop_and_the_same_each_time(tmp_path, write_shop):
    for name in ("one", "other"):
        number = write_shop(tmp_path / name, num_users=30, num_items=600)
    assert (tmp_path / "one/interactions.csv").read_bytes() == (tmp_path / "other/interactions.csv").read_bytes()
    catalogue = Catalogue.load(tmp_path / "one")
    histories = Histories.load(tmp_path / "one", catalogue)
    assert (len(catalogue), len(histories), histories.num_interactions) == (600, 30, number)


def test_what_a_history_says_of_a_taste_by_hand():
    shares = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])
    # Item 0 has been taken: .5 / sqrt(1 - .5) of one taste, .25 / sqrt(1 - .25) of the other.
    one, other = 0.5 / 0.5**0.5, 0.25 / 0.75**0.5
    expected = (one * shares[0] + other * shares[1]) / (one + other)
    np.testing.assert_allclose(posterior_shares(np.log(shares), shares, [0]), expected)
    np.testing.assert_allclose(posterior_shares(np.log(shares), shares, []), shares.mean(axis=0))


def test_who_knows_the_items_is_ahead_of_popularity():
    shop, again = (taste_shop.draw_shop(num_users=150, num_items=50, seed=3) for _ in range(2))
    popularity = again._replace(points=np.zeros_like(shop.points))  # all that it tells then
    known, unknown = (np.array(list(ranks(each, num_tastes=2_000))) for each in (shop, popularity))
    assert len(known) == len(unknown) == 150
    assert ndcg(known, 10) > 1.2 * ndcg(unknown, 10)
