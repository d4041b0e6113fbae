"""Rates on a plateau and along a cosine."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.trainers.training.learning_rate import cosine_rate, plateau_rate


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        ([], 1.0),
        ([3, 2, 1], 1.0),
        ([1, 1, 1], 1.0),  # two epochs without a fall are borne
        ([1, 1, 1, 1], 0.1),  # the third is one too many
        ([1, 1, 1, 1, 1, 1], 0.1),  # and counting begins anew
        ([1, 1, 1, 1, 1, 1, 1], 0.01),
        ([1, 1, 1, 0.5, 1, 1], 1.0),
        ([1, 1, 1, 0.99999], 0.1),  # too little a fall
    ],
)
def test_rates_of_short_histories(losses, rate):
    assert plateau_rate(1.0, losses, 0.1, 2) == pytest.approx(rate)


@given(st.lists(st.floats(0.1, 10), max_size=30), st.integers(0, 5))
def test_rates_never_rise_and_falling_losses_keep_them(losses, patience):
    rates = [plateau_rate(1.0, losses[:epoch], 0.5, patience) for epoch in range(len(losses) + 1)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] >= 0.5 ** (len(losses) / (patience + 1))
    assert plateau_rate(1.0, [2.0**-n for n in range(len(losses))], 0.5, patience) == 1.0


def test_a_cosine_rises_and_falls_to_zero():
    rates = [cosine_rate(1e-3, update, 200) for update in range(1, 201)]
    top = rates.index(max(rates))
    assert 15 <= top <= 25
    assert all(one < other for one, other in itertools.pairwise(rates[: top + 1]))
    assert all(one > other for one, other in itertools.pairwise(rates[top:]))
    assert 0.9e-3 < max(rates) <= 1e-3
    assert 0 < rates[-1] < 1e-6
    assert cosine_rate(1.0, 1, 1) == 1.0


@pytest.mark.parametrize("update", [0, 11])
def test_an_update_outside_the_training_is_refused(update):
    with pytest.raises(ValueError, match="update must lie in 1 to 10"):
        cosine_rate(1e-3, update, 10)
