import math

import numpy as np
import pytest
import torch
from langevin.diagnostics import calibration
from scipy.stats import binomtest, poisson
from sklearn.metrics import roc_auc_score

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


def two_classes(confidence):
    return torch.stack((confidence, 1 - confidence), -1)


def test_bins_of_equal_mass():
    confidence = torch.tensor([0.95, 0.6, 0.7, 0.99, 0.55, 0.8, 0.9], dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 1])  # right, wrong, right, right, wrong, right, wrong
    found = calibration.reliability(two_classes(confidence), labels, bins=3, binning="mass")
    # In order .55 .6 .7 | .8 .9 | .95 .99
    means = torch.tensor([(0.55 + 0.6 + 0.7) / 3, 0.85, 0.97], dtype=torch.float64)
    torch.testing.assert_close(found[0], means)
    torch.testing.assert_close(found[1], torch.tensor([1 / 3, 0.5, 1.0], dtype=torch.float64))
    assert found[2].tolist() == [3, 2, 2]
    expected = (3 * abs(means[0] - 1 / 3) + 2 * abs(means[1] - 0.5) + 2 * abs(means[2] - 1)) / 7
    assert calibration.ece(two_classes(confidence), labels, 3, "mass") == pytest.approx(expected.item())


def test_equal_confidences_share_a_bin_of_equal_mass():
    confidence = torch.tensor([0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.9])
    _, _, count = calibration.reliability(two_classes(confidence), torch.zeros(8).long(), bins=4, binning="mass")
    assert count.tolist() == [1, 0, 6, 1] or count.tolist() == [1, 6, 0, 1]
    mean, _, count = calibration.reliability(two_classes(torch.full((9,), 0.7)), torch.zeros(9).long(), 3, "mass")
    assert count.tolist() == [0, 9, 0]
    assert mean.isnan().tolist() == [True, False, True]


@pytest.mark.parametrize("bins", [1, 7, 15, 40])
def test_bins_of_equal_mass_differ_by_one_at_most(bins):
    confidence = 0.5 + 0.5 * torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, _, count = calibration.reliability(two_classes(confidence), torch.zeros(100).long(), bins, "mass")
    assert count.sum() == 100
    assert count.max() - count.min() <= 1
    assert (mean.diff() > 0).all()


def test_errors_and_intervals_of_shares():
    share, count = torch.tensor([0.0, 0.3, 1.0, 0.9]), torch.tensor([10, 20, 7, 1000])
    expected = [0.0, math.sqrt(0.21 / 20), 0.0, math.sqrt(0.09 / 1000)]
    assert calibration.share_error(share, count).tolist() == pytest.approx(expected, rel=1e-6)
    for level in (0.5, 0.95):
        lower, upper = calibration.share_interval(share, count, level)
        for row, successes in enumerate((0, 6, 7, 900)):
            exact = binomtest(successes, int(count[row])).proportion_ci(level, "wilson")
            assert lower[row].item() == pytest.approx(exact.low, abs=1e-7)
            assert upper[row].item() == pytest.approx(exact.high, abs=1e-7)
    nothing = torch.tensor(math.nan), torch.tensor(0)
    assert calibration.share_error(*nothing).isnan()
    assert calibration.share_interval(*nothing)[0].isnan()
    with pytest.raises(ValueError, match=r"shares must lie in \[0, 1\]"):
        calibration.share_error(torch.tensor(1.5), torch.tensor(3))
    with pytest.raises(ValueError, match="level must lie strictly"):
        calibration.share_interval(share, count, 95)


def test_errors_of_reliability_points_are_those_of_repeated_data():
    confidence = 0.5 + 0.5 * torch.rand(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g = torch.Generator().manual_seed(2)
    shares, errors = [], []
    for _ in range(300):
        labels = 1 - torch.bernoulli(confidence, generator=g).long()
        _, share, count = calibration.reliability(two_classes(confidence), labels, 5, "mass")
        shares.append(share)
        errors.append(calibration.share_error(share, count))
    ratio = torch.stack(shares).std(0) / torch.stack(errors).mean(0)
    # Of a standard deviation from 300 repeats the error is 4 %; within a bin confidences differ a little, which helps.
    assert ((ratio > 0.85) & (ratio < 1.15)).all()


def test_pit_of_counts_is_uniform_and_keyed_by_its_seed():
    rate = torch.linspace(0.2, 4, 3000, dtype=torch.float64)
    y = torch.poisson(rate, generator=torch.Generator().manual_seed(0))
    cdf, below = (torch.from_numpy(poisson.cdf(values, rate)) for values in (y, y - 1))
    values = calibration.pit(cdf, below, seed=3)
    assert ((below <= values) & (values <= cdf)).all()
    assert calibration.uniformity(values).p_value > 0.01
    assert calibration.uniformity(cdf).p_value < 1e-6
    assert torch.equal(values, calibration.pit(cdf, below, seed=3))
    assert not torch.equal(values, calibration.pit(cdf, below, seed=4))
    reshaped = calibration.pit(cdf.reshape(2, -1), below.reshape(2, -1), seed=3)
    assert torch.equal(values.reshape(2, -1), reshaped)
    torch.testing.assert_close(calibration.pit(cdf), cdf, rtol=0, atol=0)
    with pytest.raises(ValueError, match="0 ≤ P"):
        calibration.pit(below, cdf)
    with pytest.raises(ValueError, match="cdf_below has shape"):
        calibration.pit(cdf, below[:3])


def test_uniformity_by_hand():
    # Steps of ¼ at .1 .2 .3 .9: the largest distance is ¾ − .3, just after .3
    found = calibration.uniformity(torch.tensor([0.3, 0.1, 0.9, 0.2]))
    assert found.distance == pytest.approx(0.45)
    # Of one value u the distance is max(u, 1 − u), at least d with probability 2(1 − d)
    assert calibration.uniformity(torch.tensor([0.9])).p_value == pytest.approx(0.2)
    for bad in (torch.tensor([]), torch.tensor([0.5, math.nan]), torch.tensor([1.1])):
        with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
            calibration.uniformity(bad)


def test_auroc_by_hand_and_by_sklearn():
    inside, outside = torch.tensor([1.0, 2.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 0.0])
    # 2 wins over 1, ties with 2 and 2; 4 wins all; 0 loses all.
    found = calibration.auroc(inside, outside)
    assert found.value == pytest.approx((2 + 4 + 0) / 12)
    ψ = (outside[:, None] > inside).double() + 0.5 * (outside[:, None] == inside)
    assert found.error == pytest.approx(math.sqrt(ψ.mean(0).var() / 4 + ψ.mean(1).var() / 3))
    g = torch.Generator().manual_seed(0)
    for spread in (3, 300):  # many ties, few
        a = torch.randint(spread, (50,), generator=g)
        b = torch.randint(spread, (70,), generator=g) + spread // 3
        expected = roc_auc_score(np.repeat([0, 1], [50, 70]), torch.cat((a, b)).numpy())
        assert calibration.auroc(a, b).value == pytest.approx(expected)
        assert calibration.auroc(b, a).value == pytest.approx(1 - expected)
        assert calibration.auroc(b, a).error == pytest.approx(calibration.auroc(a, b).error)
    assert calibration.auroc(torch.zeros(5), torch.ones(4)) == (1.0, 0.0)
    assert math.isnan(calibration.auroc(torch.zeros(1), torch.ones(4)).error)
    with pytest.raises(ValueError, match="in_distribution must hold scores"):
        calibration.auroc(torch.tensor([0.0, math.nan]), torch.ones(2))
    with pytest.raises(ValueError, match="out_of_distribution must hold scores"):
        calibration.auroc(torch.ones(2), torch.ones(0))


def test_error_of_auroc_is_that_of_repeated_data():
    g = torch.Generator().manual_seed(0)
    found = [calibration.auroc(torch.randn(40, generator=g), 1 + 2 * torch.randn(60, generator=g)) for _ in range(400)]
    values, errors = np.array(found).T
    assert values.std(ddof=1) == pytest.approx(errors.mean(), rel=0.12)  # three errors of an sd from 400 repeats
    # P(z' > z) of N(1, 4) over N(0, 1) is Φ(1/√5)
    truth = 0.5 * (1 + math.erf(1 / math.sqrt(5) / math.sqrt(2)))
    assert abs(values.mean() - truth) < 4 * errors.mean() / math.sqrt(400)


def test_agreement_and_total_variation_by_hand():
    q = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.3, 0.4, 0.3], [0.0, 1.0, 0.0]])
    assert calibration.agreement(P, q) == 0.5
    assert calibration.total_variation(P, q) == pytest.approx((0 + 0.5 + 0.1 + 0.1) / 4, rel=1e-6)
    assert calibration.total_variation(torch.eye(3), torch.eye(3).roll(1, 0)) == 1
    for function in (calibration.agreement, calibration.total_variation):
        with pytest.raises(ValueError, match="of the same shape"):
            function(P, q[:2])


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
    with pytest.raises(ValueError, match="binning must be one of"):
        calibration.ece(P, Y, binning="equal")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        calibration.rmse(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="upper"):
        calibration.coverage(torch.zeros(3), torch.zeros(2), torch.zeros(3))
