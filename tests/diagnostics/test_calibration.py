import math

import pytest
import torch
from langevin.diagnostics import calibration

P = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]])
Y = torch.tensor([0, 2, 2, 1])


def test_accuracy_and_brier_by_hand():
    assert calibration.accuracy(P, Y) == 0.75
    # (.3²+.2²+.1²) + (.1²+.6²+.7²) + (.3²+.3²+.6²) + (.05²+.1²+.05²)
    assert calibration.brier(P, Y) == pytest.approx((0.14 + 0.86 + 0.54 + 0.015) / 4, rel=1e-6)


def test_brier_of_two_classes_is_twice_the_binary_form():
    p, y = torch.tensor([0.8, 0.3], dtype=torch.float64), torch.tensor([1, 1])
    both = torch.stack((1 - p, p), -1)
    assert calibration.brier(both, y) == pytest.approx(2 * ((p - y) ** 2).mean().item())


def test_nll_by_hand():
    log_likelihood = P.double().log().gather(-1, Y[:, None]).squeeze(-1)
    expected = -(math.log(0.7) + math.log(0.3) + math.log(0.4) + math.log(0.9)) / 4
    assert calibration.nll(log_likelihood) == pytest.approx(expected, rel=1e-6)
    assert calibration.nll(torch.tensor([0.0, -math.inf])) == math.inf


def test_ece_by_hand():
    # 15 bins: .7 in (10/15, 11/15], .6 = 9/15 in (8/15, 9/15], .4 = 6/15 in (5/15, 6/15], .9 in (13/15, 14/15]
    expected = (abs(1 - 0.7) + abs(0 - 0.6) + abs(1 - 0.4) + abs(1 - 0.9)) / 4
    assert calibration.ece(P, Y) == pytest.approx(expected, rel=1e-6)
    # One bin: mean confidence 0.65, accuracy 0.75.
    assert calibration.ece(P, Y, bins=1) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_confidences_on_edges_belong_to_the_bin_below(dtype):
    confidence = (torch.arange(8, 16).to(torch.float64) / 15).to(dtype)
    probabilities = torch.stack((confidence, 1 - confidence), -1)
    _, _, count = calibration.reliability(probabilities, torch.zeros(8, dtype=torch.long))
    assert count.tolist() == [0] * 7 + [1] * 8
    above = torch.nextafter(confidence[:-1], torch.ones((), dtype=dtype))
    _, _, count = calibration.reliability(torch.stack((above, 1 - above), -1), torch.zeros(7, dtype=torch.long))
    assert count.tolist() == [0] * 8 + [1] * 7


def test_reliability_marks_empty_bins():
    confidence, correct, count = calibration.reliability(P, Y, bins=2)
    assert count.tolist() == [1, 3]
    torch.testing.assert_close(confidence, torch.tensor([0.4, (0.7 + 0.6 + 0.9) / 3], dtype=torch.float64))
    torch.testing.assert_close(correct, torch.tensor([1.0, 2 / 3], dtype=torch.float64))
    assert calibration.reliability(P, Y, bins=3)[0][0].isnan()


def test_leading_dimensions_count_like_examples():
    p, y = P.reshape(2, 2, 3), Y.reshape(2, 2)
    for score in (calibration.accuracy, calibration.brier, calibration.ece):
        assert score(p, y) == score(P, Y)


def test_a_calibrated_forecast_has_small_ece():
    torch.manual_seed(0)
    p = torch.rand(200_000, dtype=torch.float64)
    labels = torch.bernoulli(p).long()
    both = torch.stack((1 - p, p), -1)
    # Each of the 8 bins in use is off by at most its Monte-Carlo error.
    assert calibration.ece(both, labels) < 4 * 0.5 / math.sqrt(200_000 / 8)
    assert calibration.ece(both.sqrt() / both.sqrt().sum(-1, keepdim=True), labels) > 0.05


def test_rmse_and_coverage_by_hand():
    y = torch.tensor([1.0, 2.0, 4.0])
    assert calibration.rmse(torch.tensor([1.0, 4.0, 3.0]), y) == pytest.approx(math.sqrt(5 / 3))
    lower, upper = torch.tensor([1.0, 2.5, 0.0]), torch.tensor([2.0, 3.0, 4.0])
    assert calibration.coverage(lower, upper, y) == pytest.approx(2 / 3)


def test_wrong_shapes_and_labels_are_refused():
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(3,\)"):
        calibration.accuracy(P, Y[:3])
    with pytest.raises(ValueError, match=r"0 … 2, got 0 … 3"):
        calibration.brier(P, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="bins must be at least 1"):
        calibration.ece(P, Y, bins=0)
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        calibration.rmse(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="upper"):
        calibration.coverage(torch.zeros(3), torch.zeros(2), torch.zeros(3))
