"""The measurements of benchmarks.scale that are not of the clock alone."""

import numpy as np
import pytest

from benchmarks.scale import speed_of


@pytest.mark.parametrize(("a_second", "runs"), [(10, 2), (500, 4)])
def test_the_start_of_a_command_does_not_outweigh_what_it_answers(a_second, runs):
    """Starts of 9 and 8 seconds, in turns: by clock, and by a processor that worked twice as long."""
    asked = []

    def run(number):
        asked.append(number)
        return (9 - len(asked) % 2 + number / a_second) * np.array([1, 2])

    by_clock, by_processor = speed_of(run, 128)
    assert len(asked) == runs
    assert by_clock == pytest.approx(a_second, rel=0.1) and by_processor == pytest.approx(a_second / 2, rel=0.1)


def test_a_speed_that_drowns_in_the_start_is_none():
    starts = iter([9.0, 8.0, 8.5, 8.0, 9.5])
    assert speed_of(lambda number: np.array([next(starts)]), 128) is None
