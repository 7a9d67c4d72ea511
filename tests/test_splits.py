from datetime import date

import numpy as np
import pytest

from processing_unimp.catalogue import Catalogue
from processing_unimp.history import Histories
from processing_unimp.splits import Targets, by_time, hold_out_domain, k_core, leave_last_out, new_items_of


def shop(
    sequences: dict[str, str], domains: dict[str, str] | None = None, times: dict[str, list[float]] | None = None
):
    """Histories of users given as words, one letter an item, one second a letter."""
    letters = sorted(set("".join(sequences.values())))
    items = [{"item_id": letter, **({"domain": domains.get(letter)} if domains else {})} for letter in letters]
    catalogue = Catalogue.from_items(items)
    rows = [
        {"user_id": user, "item_id": letter, "timestamp": times[user][n] if times else n}
        for user, word in sequences.items()
        for n, letter in enumerate(word)
    ]
    return Histories.from_interactions(rows, catalogue), catalogue


def word(interactions) -> str:
    return "".join(event.item_id for event in interactions)


def asked(targets: Targets) -> dict[str, tuple[str, str]]:
    return {case.user_id: (word(case.history), case.target.item_id) for case in targets}


def test_k_core_takes_away_until_all_is_left_has_k():
    # c has one interaction with z and y is then left with one: both go, and c with them
    histories, _ = shop({"a": "xxw", "b": "xw", "c": "zy", "d": "yxw"})
    core = k_core(histories, 2)
    assert {user: word(core[user]) for user in core} == {"a": "xxw", "b": "xw", "d": "xw"}
    assert core.removed == {
        "interactions outside the 2-core": 3,
        "users outside the 2-core": 1,
        "items outside the 2-core (they stay in the catalogue)": 2,
    }
    assert k_core(core, 2).num_interactions == core.num_interactions
    assert k_core(histories, 1).num_interactions == histories.num_interactions
    with pytest.raises(ValueError, match="survives the 9-core.*smaller k"):
        k_core(histories, 9)
    with pytest.raises(ValueError, match="at least 1"):
        k_core(histories, 0)


def test_new_items_are_those_that_nobody_is_known_to_have_taken():
    histories, catalogue = shop({"a": "rstxyz", "b": "rstxyz", "c": "rstxyz", "d": "w"})

    def new(train, counts, core=None, **held_out):
        found = new_items_of(train, counts if core is None else core, counts, **held_out)
        return "" if found is None else "".join(catalogue.item_id(number) for number in np.flatnonzero(found))

    is_w = np.array([item_id == "w" for item_id in catalogue.item_ids])
    first = histories.select_users(np.arange(3))
    counts = first.item_counts()
    assert new(histories, histories.item_counts()) == "" and new(first, counts) == "w"
    # Somebody took it, too seldom to learn from; or it was sold while the shop was tested.
    assert new(first, histories.item_counts(), counts) == ""
    assert new(first, 5 * histories.item_counts()) == "w"
    catalogue.retire(["w"])
    assert new(first, counts) == "" and new(first, counts, held_out=is_w) == ""
    catalogue.unretire(["w"])
    # Where another was taken twice, this one is the end of its tail, unless it is to be asked for.
    twice = np.where(np.arange(7) == first.catalogue.number("r"), 2, counts)
    assert new(first, twice) == "" and new(first, twice, held_out=is_w) == "w"
    # Six of seven: such a shop has what nobody wants.
    last = histories.select_users(np.array([3]))
    assert new(last, 3 * last.item_counts()) == ""
    assert new(last, 3 * last.item_counts(), held_out=~is_w) == "rstxyz"


def test_leave_last_out_by_hand():
    histories, _ = shop({"ann": "abcd", "bob": "ab", "cyd": "c", "dan": "dba"})
    split = leave_last_out(histories, new_users=0)
    assert {user: word(split.train[user]) for user in split.train} == {
        "ann": "ab",
        "bob": "ab",
        "cyd": "c",
        "dan": "d",
    }
    assert asked(split.validation) == {"ann": ("ab", "c"), "dan": ("d", "b")}
    assert asked(split.test) == {"ann": ("abc", "d"), "dan": ("db", "a")}
    assert split.new_users is None and split.new_domain is None and split.name == "leave_last_out"
    assert split.removed == {"users with fewer than 3 interactions, trained on and not asked": 2}
    assert "no split in time" in split.leaks


def test_new_users_are_in_no_other_part_and_depend_on_the_seed():
    histories, _ = shop({f"u{n}": "abcd" for n in range(50)})
    split = leave_last_out(histories, new_users=0.1, seed=0)
    new = {case.user_id for case in split.new_users}
    assert len(new) == 5 and asked(split.new_users)[next(iter(new))] == ("abc", "d")
    assert len(split.train) == len(split.test) == len(split.validation) == 45
    assert new.isdisjoint(split.train.users)
    assert new.isdisjoint(asked(split.test)) and new.isdisjoint(asked(split.validation))
    assert new == {case.user_id for case in leave_last_out(histories, 0.1, seed=0).new_users}
    assert new != {case.user_id for case in leave_last_out(histories, 0.1, seed=1).new_users}
    for share in (-0.1, 1, 10):
        with pytest.raises(ValueError, match="Expected a share"):
            leave_last_out(histories, share)
    with pytest.raises(ValueError, match="holds out all"):
        leave_last_out(shop({"a": "abc"})[0], 0.9)
    with pytest.raises(ValueError, match="no user of .* has 3"):
        leave_last_out(shop({"a": "ab"})[0])


def test_leaks_are_measured():
    histories, _ = shop({"a": "abc", "b": "abb"}, times={"a": [1, 2, 2], "b": [3, 4, 5]})
    leaks = leave_last_out(histories, 0).leaks
    # training times are 1 and 3; one of them is newer than the test at 2, none than the test at 5
    assert "25.0 % of the training interactions are newer" in leaks
    assert "50.0 % of the test targets have the timestamp" in leaks
    assert "50.0 % of the test targets are items the user had before" in leaks


def test_by_time_by_hand():
    times = {
        "old": [1, 2, 3],
        "val": [1, 10, 11],
        "both": [1, 12, 20, 21],
        "late": [15, 25],
        "new": [22, 23],
        "same": [2, 30],
    }
    words = {"old": "abc", "val": "abc", "both": "abcd", "late": "ab", "new": "ab", "same": "ef"}
    histories, _ = shop(words, times=times)
    split = by_time(histories, 10, 20)
    assert {user: word(split.train[user]) for user in split.train} == {
        "old": "abc",
        "val": "a",
        "both": "a",
        "same": "e",
    }
    assert asked(split.validation) == {"val": ("a", "b"), "both": ("a", "b")}
    assert asked(split.test) == {"both": ("ab", "c"), "late": ("a", "b"), "same": ("e", "f")}
    assert split.removed == {
        "users without an interaction before validation_from, not trained on": 2,
        "users without a history before their first test interaction, not asked": 1,
        "interactions from validation_from on that are neither trained on nor asked": 5,
    }
    assert "33.3 % of the test targets are items without a training interaction" in split.leaks
    assert split.train.timestamps.max() < 10


def test_by_time_takes_dates_and_refuses_impossible_ones():
    day = 86400
    histories, _ = shop({"a": "abc", "b": "ab"}, times={"a": [0, 10 * day, 20 * day], "b": [0, day]})
    for begin, end in (("1970-01-05", "1970-01-15"), (date(1970, 1, 5), date(1970, 1, 15)), (4 * day, 14 * day)):
        split = by_time(histories, begin, end)
        assert asked(split.validation) == {"a": ("a", "b")} and asked(split.test) == {"a": ("ab", "c")}
    with pytest.raises(ValueError, match="not before"):
        by_time(histories, "1970-01-15", "1970-01-05")
    with pytest.raises(ValueError, match="reach from 0 to 1728000"):
        by_time(histories, "1980-01-01", "1981-01-01")


def test_hold_out_domain_by_hand():
    domains = {"a": "A", "b": "B", "c": "B", "n": None}
    histories, catalogue = shop({"x": "abac", "y": "bc", "z": "ca", "w": "an"}, domains)
    rest, targets = hold_out_domain(histories, catalogue, "B")
    assert {user: word(rest[user]) for user in rest} == {"x": "aa", "z": "a", "w": "an"}
    assert asked(targets) == {"x": ("aba", "c"), "y": ("b", "c")}
    assert rest.removed == {
        "interactions held out in domain 'B'": 5,
        "users with interactions in domain 'B' alone": 1,
    }
    assert histories.removed == {}
    with pytest.raises(ValueError, match="of domain 'C'; it has 'A', 'B'"):
        hold_out_domain(histories, catalogue, "C")
    plain, without = shop({"x": "ab"})
    with pytest.raises(ValueError, match="no domain"):
        hold_out_domain(plain, without, "A")
    only, one = shop({"x": "aa"}, {"a": "A"})
    with pytest.raises(ValueError, match="Nothing would be left"):
        hold_out_domain(only, one, "A")
    first, two = shop({"x": "ab"}, {"a": "A", "b": "B"})
    with pytest.raises(ValueError, match="Nothing can be asked"):
        hold_out_domain(first, two, "A")


def test_targets_sample_index_and_refuse_impossible_positions():
    histories, _ = shop({f"u{n}": "abc" for n in range(20)})
    targets = leave_last_out(histories, 0).test
    sample = targets.sample(5, seed=3)
    assert len(sample) == 5 and np.all(np.diff(sample.users) > 0)
    assert (
        sample.users.tolist() == targets.sample(5, seed=3).users.tolist() != targets.sample(5, seed=4).users.tolist()
    )
    assert targets.sample(100) is targets
    assert targets[-1].user_id == "u19" and len(list(targets)) == 20
    with pytest.raises(IndexError):
        targets[20]
    for users, positions in (([0], [0]), ([0], [3]), ([20], [1]), ([0, 1], [1])):
        with pytest.raises(ValueError):
            Targets(histories, np.array(users), np.array(positions))


@pytest.mark.real_data
def test_the_standard_split_of_beauty(data_dir):
    folder = data_dir / "amazon-beauty-2014"
    histories = Histories.load(folder, Catalogue.load(folder))
    core = k_core(histories)
    assert core.num_interactions == 198502 and core.removed == {}
    split = leave_last_out(core, new_users=0)
    assert (len(split.train), len(split.validation), len(split.test)) == (22363, 22363, 22363)
    assert split.train.num_interactions == 198502 - 2 * 22363
    split = leave_last_out(core)
    assert (len(split.test), len(split.new_users)) == (20127, 2236)


@pytest.mark.real_data
def test_films_are_split_in_order(data_dir):
    folder = data_dir / "ml-100k-posters"
    split = leave_last_out(k_core(Histories.load(folder, Catalogue.load(folder))))
    for before, after in zip(split.validation.sample(50), split.test.sample(50), strict=True):
        assert before.user_id == after.user_id
        assert [*before.history, before.target] == after.history
        assert after.history[-1].timestamp <= after.target.timestamp
