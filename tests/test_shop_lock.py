"""Many answers at once, or one change."""

import copy
import pickle
import threading

import pytest

from processing_unimp.shop_lock import ShopLock


def run(*functions):
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def test_answers_go_on_beside_each_other_and_a_change_waits_for_them():
    lock, both_in, events = ShopLock(), threading.Barrier(3), []
    release = threading.Event()

    def answer():
        with lock.answering():
            both_in.wait(10)
            release.wait(10)
            events.append("answered")

    def change():
        with lock.changing():
            events.append("changed")

    answering = run(answer, answer)
    both_in.wait(10)  # both are inside
    (changing,) = run(change)
    changing.join(0.2)
    assert not events
    release.set()
    for thread in (*answering, changing):
        thread.join(10)
    assert events == ["answered", "answered", "changed"]


def test_new_answers_wait_for_a_change_that_waits():
    """Or a shop that is always asked would never change."""
    lock, inside, release, events = ShopLock(), threading.Event(), threading.Event(), []

    def first():
        with lock.answering():
            inside.set()
            release.wait(10)

    def change():
        with lock.changing():
            events.append("changed")

    def second():
        with lock.answering():
            events.append("answered")

    threads = run(first)
    inside.wait(10)
    threads += run(change)
    while not lock._num_waiting:
        pass
    threads += run(second)
    release.set()
    for thread in threads:
        thread.join(10)
    assert events == ["changed", "answered"]


def test_an_answer_may_ask_again():
    lock = ShopLock()
    with lock.answering(), lock.answering():
        pass
    with lock.changing():
        pass


def test_an_error_leaves_it_free():
    lock = ShopLock()
    for enter in (lock.answering, lock.changing):
        with pytest.raises(KeyError), enter():
            raise KeyError
    with lock.changing():
        pass


def test_a_copy_is_another_lock():
    lock = ShopLock()
    with lock.changing():
        for other in (pickle.loads(pickle.dumps(lock)), copy.deepcopy(lock)):
            with other.changing():
                pass
