import pytest
from langevin.samplers import Polynomial, batch_size_for, temperature_of
from langevin.samplers.schedules import Cyclical


def test_formulas_invert_one_another():
    assert temperature_of(0.1, 1000, 50) == pytest.approx(0.95)  # the "B = 50" of the literature, at N = 1000
    for num_data, lr, temperature in [(1000, 0.1, 1.0), (400, 0.02, 0.24), (8192, 0.5, 3.0)]:
        size = batch_size_for(temperature, lr, num_data)
        assert temperature_of(lr, num_data, size) <= temperature * (1 + 1e-12)
        assert temperature_of(lr, num_data, size - 1) > temperature


def test_exact_sizes_are_not_rounded_up():
    lr = 2 * 0.7 * 20 / (500 - 20)
    assert batch_size_for(0.7, lr, 500) == 20


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (temperature_of, (0.1, 10, 11), r"\[1, 10\], got 11"),
        (temperature_of, (-0.1, 10, 1), "lr must be positive"),
        (batch_size_for, (1.0, 1e-4, 1000), "raise lr to at least 0.002"),
        (batch_size_for, (0.0, 0.1, 1000), "temperature must be positive"),
        (batch_size_for, (1.0, 0.1, 1), "one example has no minibatch noise"),
    ],
)
def test_bad_input(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("schedule", "arguments", "message"),
    [
        (Polynomial, {"a": 1.0, "gamma": 0.5}, "gamma must lie"),
        (Polynomial, {"a": 0.0}, "a must be positive"),
        (Cyclical, {"value": 1.0, "length": 0}, "length must be positive"),
        (Cyclical, {"value": 1.0, "length": 5, "exploration": 1.0}, "exploration"),
    ],
)
def test_bad_schedules(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(**arguments)
