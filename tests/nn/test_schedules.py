import pytest

from mixbench.nn.schedules import ANNEALING, anneal, cosine_decay, warm_decay


def test_the_memory_is_short_at_first_and_never_longer_than_asked_for():
    assert warm_decay(0.999, 0) == pytest.approx(0.1)
    assert warm_decay(0.999, 8) == pytest.approx(0.5)
    assert warm_decay(0.999, 100_000) == 0.999
    assert warm_decay(0.3, 8) == 0.3


def test_the_teacher_holds_its_first_decay_and_ends_with_the_last():
    values = [cosine_decay(step, 1000, 0.9, 0.99, 0.25) for step in range(1001)]
    assert set(values[:250]) == {0.9}
    assert values[250] > 0.91  # the jump: the cosine has run since step 0
    assert values == sorted(values)
    assert values[500] == pytest.approx(0.945)
    assert values[1000] == pytest.approx(0.99)


def test_the_official_annealing_is_over_long_before_the_run_is():
    """Half at 1.2 % and 1 % at 2.2 % of 500,400 iterations, as measured with the real hook."""
    values = [anneal(step, 500_400, "official") for step in (5_954, 11_192)]
    assert values[0] == pytest.approx(0.5, abs=1e-3)
    assert values[1] == pytest.approx(0.01, abs=1e-4)
    assert anneal(250_200, 500_400, "cosine") == pytest.approx(0.5)


@pytest.mark.parametrize("rule", ANNEALING)
def test_a_weight_is_whole_at_the_start_and_defined_behind_the_end(rule):
    assert anneal(0, 10, rule) == 1.0
    assert anneal(12, 10, rule) == (1.0 if rule == "constant" else pytest.approx(0.0))


def test_an_unknown_annealing_is_refused():
    with pytest.raises(ValueError, match="one of constant, cosine, official"):
        anneal(0, 10, "linear")
