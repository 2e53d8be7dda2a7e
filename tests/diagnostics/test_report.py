"""The report: whatever is judged, one file that is whole, safe, self-contained and accessible."""

from __future__ import annotations

import ast
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import torch
from langevin.diagnostics import Laplace, compare, convergence, report
from langevin.samplers import (
    HMC,
    SGLD,
    SNGD,
    Chains,
    Fisher,
    LogDensity,
    Polynomial,
    Posterior,
    categorical,
    find_mode,
    gaussian,
    sample,
)
from torch import nn
from torch.distributions import Normal

VOID = {"meta", "link", "br", "img", "hr", "input"}
BAD_NAME = "<script>alert('x')</script> & $\\frac{1}$ \"quoted\""
TEXT_CONTRAST, SHAPE_CONTRAST = 4.5, 3.0
"""What WCAG 2.1 asks for at level AA of text (1.4.3) and of lines and marks (1.4.11)."""


class Page(HTMLParser):
    """Reads a page and keeps what the tests ask for."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.stack == [], f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack[-1] == tag, f"</{tag}> closes <{self.stack[-1]}>"
        self.stack.pop()

    def handle_data(self, data):
        self.text.append(data)
        for tag in self.stack:
            self.inside.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))


def read(path, escaped: bool = True) -> Page:
    """Parse a report and check what every report must meet; `escaped`: nor is anything escaped twice."""
    html = path.read_text("utf-8")
    assert path.stat().st_size < 5_000_000
    page = Page(html)
    # self-contained, and no scripts
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "img", "base", "form"}
    for tag, attrs in page.tags:
        for key, value in attrs.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("href", "src", "xlink:href", "action", "data"):
                assert value is not None
                assert value.startswith("#"), (tag, key, value)
    style = "".join(page.inside["style"])
    assert "@import" not in style
    assert "url(" not in style
    # ids are unique and every local reference has its target
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {v[1:] for _, a in page.tags for k, v in a.items() if k in ("href", "xlink:href") and v}
    wanted |= {v for _, a in page.tags for k, v in a.items() if k == "aria-labelledby" and v}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted <= set(ids), wanted - set(ids)
    # figures take their colours from the page, and say what they show
    assert not re.search(r"#0000\d\d", html)
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    assert used <= set(re.findall(r"--([\w-]+):", style)), used
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert len(svg["aria-label"] or "") > 20
    # one h1, no level skipped
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    # tables with captions and scopes
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(th.get("scope") in ("row", "col") for th in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert "width=device-width" in (page.all("meta")[1]["content"] or "")
    settings = "How it was made" + page.words.split("How it was made")[-1].split("What is approximate")[0]
    for nonsense in (r"\bnan\b", r"\binf\b", r"\bNone\b", r"tensor\(", *(("&lt;", "&amp;") if escaped else ())):
        found = re.search(f".{{0,60}}{nonsense}.{{0,40}}", page.words.replace(settings, ""))
        assert not found, found[0]
    return page


def network(seed: int = 0, hidden: int = 4) -> tuple[Posterior, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(160, 3, generator=generator)
    y = (x @ torch.tensor([2.0, -1.0, 0.5]) + 0.5 * torch.randn(160, generator=generator) > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2))
    return Posterior(model, categorical, (x[:100], y[:100])), (x[100:], y[100:])


def linear_regression() -> tuple[Posterior, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 2, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0]]) + 0.5 * torch.randn(150, 1, generator=generator)
    return Posterior(nn.Linear(2, 1), gaussian(0.5), (x[:100], y[:100])), (x[100:], y[100:])


def draw(posterior, sampler=None, **more) -> Chains:
    settings = {"num_samples": 60, "num_warmup": 20, "thinning": 2, "batch_size": 20, "num_chains": 3} | more
    return sample(posterior, sampler or SGLD(lr=0.05), progress=False, compile=False, **settings)


def fake(chains: int = 4, draws: int = 200, seed: int = 0, **attrs: object) -> Chains:
    """Chains of another sampler, which tells nothing of itself unless asked to."""
    generator = torch.Generator().manual_seed(seed)
    return Chains(
        draws={
            "a": torch.randn(chains, draws, 3, generator=generator),
            "b": torch.randn(chains, draws, generator=generator),
        },
        attrs=dict(attrs),
    )


def test_everything_at_once(tmp_path):
    posterior, test = network()
    chains = draw(posterior)
    laplace = Laplace.fit(posterior, find_mode(posterior))
    made = report(chains, posterior=posterior, laplace=laplace, test=test, path=tmp_path / "report.html")
    page = read(made.path)
    assert made.verdict in page.words.lower()
    assert len(made.sentences) == 3
    for sentence in made.sentences:
        assert sentence.replace("`", "") in page.words
    assert [t for t in page.inside["h2"] if t.strip()][-9:] == [
        "What to do next",
        "Convergence",
        "Temperature",
        "Step size and bias",
        "Comparison with Laplace",
        "Predictions and calibration",
        "The rules",
        "How it was made",
        "What is approximate",
    ]
    assert "Not shown" not in page.words
    for figure in (
        "Trace of",
        "Rank histograms",
        "Scatter of R̂",
        "Reliability diagram",
        "ellipses",
        "Temperature:",
        "Histogram of nats",
    ):
        assert any(figure in (svg["aria-label"] or "") for svg in page.all("svg")), figure
    for score in ("accuracy", "Brier", "ECE", "Laplace, 400 draws"):
        assert score in page.words
    assert str(made).startswith(f"Verdict: {made.verdict}")


def test_numbers_are_those_of_the_diagnostics(tmp_path):
    from langevin.diagnostics import Ensemble, convergence, temperature

    posterior, test = network()
    chains = draw(posterior)
    page = read(report(chains, posterior=posterior, test=test, path=tmp_path / "r.html").path)
    judged = convergence(chains, posterior, test[0])
    assert judged.predictions is not None
    assert f"{judged.max_rhat:.3f}" in page.words
    assert f"{judged.predictions.max_rhat:.3f}" in page.words
    assert f"{judged.worst(1)[0]['name']}" in page.words
    assert f"{temperature(chains, posterior).value:.4g}" in page.words
    scores = Ensemble(posterior, chains).evaluate(*test)
    assert f"{scores.ensemble['brier']:.4f}" in page.words
    assert f"{scores.single['nll']:.4f} ± {scores.single_sd['nll']:.4f}" in page.words
    assert f"{scores.ensemble['nll']:.4f} ± {scores.ensemble_error['nll']:.4f}" in page.words


def test_the_cost_of_minibatch_chains_is_that_of_the_full_data(tmp_path):
    posterior, _ = network()
    chains = draw(posterior)
    page = read(report(chains, posterior=posterior, path=tmp_path / "r.html").path)
    cost = posterior.cost(chains.position(posterior).flatten(0, 1))
    label = next(svg["aria-label"] or "" for svg in page.all("svg") if "Trace of Cost" in (svg["aria-label"] or ""))
    assert f"from {float(cost.min()):.4g} to {float(cost.max()):.4g}" in label


def test_of_large_data_the_cost_is_estimated_on_the_same_examples_for_all_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("langevin.diagnostics.measurements.MAX_EXAMPLES", 40)
    posterior, _ = network()
    chains = draw(posterior)
    page = read(report(chains, posterior=posterior, path=tmp_path / "r.html").path)
    batch = torch.linspace(0, 99, 40).round().long().expand(180, -1)
    cost = posterior.cost(chains.position(posterior).flatten(0, 1), batch)
    label = next(svg["aria-label"] or "" for svg in page.all("svg") if "from 40 examples" in (svg["aria-label"] or ""))
    assert f"from {float(cost.min()):.4g} to {float(cost.max()):.4g}" in label


def test_code_in_sentences_is_escaped_too():
    from langevin.diagnostics.report import _words

    assert _words("a `<b>` <i>") == "a <code>&lt;b&gt;</code> &lt;i&gt;"


@pytest.mark.parametrize(
    "name",
    [
        BAD_NAME,
        "$\\frac{1}$",
        "$x^2$",
        "a[0] <b>&amp;</b>",
        "<img src=x onerror=alert(1)>",
        "_begins with an underscore",
        "layer.0.weights, by far too long a name: " * 5,
        "層.重み 🙂",
    ],
)
def test_names_and_titles_are_escaped(name, tmp_path):
    chains = fake()
    chains.draws[name] = chains.draws.pop("a") + torch.linspace(0, 9, 4)[:, None, None]
    chains.attrs |= {"sampler": name, "settings": {"lr": name, "temperature": 1.0}, "engine": name, "temperature": 1.0}
    made = report(chains, path=tmp_path / "r.html", title=name)
    page = read(made.path, escaped=False)
    assert not re.search("<script|<img", made.path.read_text("utf-8").lower())
    assert name.strip() in page.words
    assert name in "".join(page.inside["title"])
    # in figures too, shortened, and no mathematics made of it; whole in what is read aloud
    assert any(name[:8] in part for part in page.inside["text"])
    assert any(f"{name}[" in (svg["aria-label"] or "") for svg in page.all("svg"))


def test_names_with_control_characters_do_not_stop_the_report(tmp_path):
    chains = fake()
    chains.draws["a\x00\x1b\n"] = chains.draws.pop("a")
    read(report(chains, path=tmp_path / "r.html").path)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(*colours: str) -> float:
    """WCAG's contrast ratio."""
    low, high = sorted(map(_luminance, colours))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_all_colours_in_both_schemes(tmp_path):
    style = "".join(read(report(fake(), path=tmp_path / "r.html").path).inside["style"])
    schemes = [dict(re.findall(r"--([\w-]+):\s*(#\w{6})", block)) for block in re.findall(r":root \{([^}]*)\}", style)]
    light, dark, printed = schemes
    assert set(dark) == set(light)
    for scheme in (light, dark, light | printed):
        pairs = [(text, back) for text in ("ink", "muted", "link") for back in ("surface", "page") if text in scheme]
        pairs += [(tone, back) for tone in ("good", "look", "bad") for back in ("surface", f"{tone}-back")]
        for text, back in pairs:
            assert _contrast(scheme[text], scheme[back]) >= TEXT_CONTRAST, (text, back)
        for i in range(8):
            assert _contrast(scheme[f"series-{i}"], scheme["surface"]) >= SHAPE_CONTRAST, i
    # these are all the colours there are
    assert not re.search(r"#\w{3,8}\b", re.sub(r":root \{[^}]*\}", "", style))


def test_the_contrast_is_that_of_the_standard():
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    assert _contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_pages_are_made_for_phones_and_paper(tmp_path):
    page = read(report(fake(), path=tmp_path / "r.html").path)
    style = "".join(page.inside["style"])
    assert "@media print" in style
    assert "break-inside: avoid" in style
    # every table scrolls by itself, by keyboard too
    regions = [attrs for attrs in page.all("div") if attrs.get("class") == "scroll"]
    assert len(regions) == len(page.all("table")) > 0
    assert all(attrs["tabindex"] == "0" and attrs["role"] == "region" and attrs["aria-label"] for attrs in regions)


def test_the_rank_plots_name_chains_by_their_numbers(tmp_path):
    chains = fake(3, chain_ids=[4, 7, 9])
    page = read(report(chains, path=tmp_path / "r.html").path)
    labels = [svg["aria-label"] or "" for svg in page.all("svg") if "Rank histograms" in (svg["aria-label"] or "")]
    assert labels
    assert all(re.findall(r"chain (\d+) ", label) == ["4", "7", "9"] for label in labels)


def test_effective_draws_grow_in_the_figure_as_by_the_diagnostic(tmp_path):
    chains = fake(draws=300)
    page = read(report(chains, path=tmp_path / "r.html").path)
    labels = [svg["aria-label"] or "" for svg in page.all("svg")]
    row = convergence(chains).worst(1)[0]
    half = {name: values[:, :160] for name, values in chains.draws.items()}
    before = next(r for r in convergence(Chains(draws=half)).worst(4) if r["name"] == row["name"])
    for kind, what in (("ess_bulk", "centre"), ("ess_tail", "tails")):
        label = next(label for label in labels if f"Effective draws of the {what}" in label)
        assert "after 640 and after all 1,200 draws" in label
        assert f"{row['name']} {before[kind]:,.0f} then {row[kind]:,.0f}" in label


def test_disagreement_in_weights_alone_is_explained(tmp_path):
    """Chains whose hidden units are in another order compute the same: said so only there."""
    posterior, test = network()
    chains = draw(posterior, HMC(), batch_size=None, thinning=1, num_warmup=200, num_samples=300, num_chains=1)
    title = "How to read R̂ of single weights"
    one = {name: values[0] for name, values in chains.draws.items()}
    orders = [torch.arange(4), torch.tensor([1, 2, 3, 0]), torch.tensor([3, 2, 1, 0])]
    permuted = {
        "0.weight": [one["0.weight"][:, order] for order in orders],
        "0.bias": [one["0.bias"][:, order] for order in orders],
        "2.weight": [one["2.weight"][..., order] for order in orders],
        "2.bias": [one["2.bias"] for _ in orders],
    }
    apart = torch.tensor([2.0, -2.0, 0.0, 1.0]).view(
        4, 1
    )  # units that can be told apart, in every chain by other names
    permuted["0.weight"] = [w + apart[order] for w, order in zip(permuted["0.weight"], orders, strict=True)]
    same = Chains(draws={name: torch.stack(values) for name, values in permuted.items()})
    page = read(report(same, posterior=posterior, test=test, path=tmp_path / "r.html").path)
    assert title in page.words
    assert "agree in predictions" in page.words
    # chains that differ in what they predict
    same.draws["2.bias"] = same.draws["2.bias"] + torch.tensor([0.0, 2.0, 4.0])[:, None, None] * torch.tensor([1.0, -1])
    page = read(report(same, posterior=posterior, test=test, path=tmp_path / "r.html").path)
    assert "does not explain it" in page.words
    # without predictions, it is left open; where there is one function for each set of weights, it is not mentioned
    assert "Only predictions tell" in read(report(same, path=tmp_path / "r.html").path).words
    linear, _ = linear_regression()
    chains = draw(linear, num_samples=30)
    chains.draws["bias"] += torch.arange(3.0)[:, None, None]
    assert title not in read(report(chains, posterior=linear, path=tmp_path / "r.html").path).words


def test_chains_in_trouble_are_named_before_anything_else(tmp_path):
    chains = fake(5, chain_ids=[2, 3, 5, 6, 8], stopped={"8": 41})
    for values in chains.draws.values():
        values[1] = values[1, :1].clone()
        values[4, 20:] = torch.nan
    chains.sample_stats["diverged"] = torch.zeros(5, 200, dtype=torch.bool)
    chains.sample_stats["diverged"][4, 20:] = True
    html = report(chains, path=tmp_path / "r.html").path.read_text("utf-8")
    top = html[html.index("<main>") : html.index("<svg")]
    assert "chain 8 (step 41)" in top
    assert "This chain has not moved, all draws are the same: chain 3." in top
    assert 'class="alert"' not in report(fake(), path=tmp_path / "r.html").path.read_text("utf-8")


def test_markdown_and_json_say_what_the_page_says(tmp_path):
    posterior, test = network()
    chains = draw(posterior)
    given = {"posterior": posterior, "laplace": Laplace.fit(posterior), "test": test, "title": "A | title"}
    page = report(chains, path=tmp_path / "r.html", **given)
    for name in ("r.json", "r.md"):
        made = report(chains, path=tmp_path / name, **given)
        assert (made.verdict, made.sentences, made.findings) == (page.verdict, page.sentences, page.findings)
    found = json.loads((tmp_path / "r.json").read_text("utf-8"))
    words = read(page.path).words
    assert found["title"] == "A | title"
    assert [f["sentence"] for f in found["findings"]] == [f.sentence for f in page.findings]
    assert f"{found['numbers']['predictions']['rhat_largest']:.3f}" in words
    assert f"{found['scores']['ensemble']['brier']:.4f}" in words
    assert f"{found['scores']['laplace']['nll']:.4f}" in words
    compared = compare(chains, given["laplace"])
    assert found["numbers"]["laplace"]["spread_ratio_median"] == float(compared.ratio.median())
    assert set(found["numbers"]["temperature"]["by_tensor"]) == set(posterior.layout.names)
    assert found["worst_predictions"][0]["name"] in words
    text = (tmp_path / "r.md").read_text("utf-8")
    assert text.startswith("# A | title\n")
    assert f"| brier | {found['scores']['ensemble']['brier']:.4f} |" in text
    assert f"| largest R̂ of predictions | {found['numbers']['predictions']['rhat_largest']:.3f} |" in text


def test_chains_are_measured_once(tmp_path, monkeypatch):
    calls = []
    from langevin.diagnostics import assessment

    measure = assessment.measure
    monkeypatch.setattr(assessment, "measure", lambda *given: calls.append(1) or measure(*given))
    for name in ("r.html", "r.md", "r.json"):
        report(fake(), path=tmp_path / name)
    assert len(calls) == 3


@pytest.mark.parametrize("given", [(), ("posterior",), ("laplace",), ("posterior", "laplace"), ("posterior", "test")])
def test_what_is_not_given_is_named(given, tmp_path):
    posterior, test = network()
    inputs = {"posterior": posterior, "test": test, "laplace": Laplace.fit(posterior, structure="diagonal")}
    page = read(report(draw(posterior), path=tmp_path / "r.html", **{k: inputs[k] for k in given}).path)
    assert ("laplace=Laplace.fit(posterior)" in page.words) == ("laplace" not in given)
    assert ("test=(inputs, targets)" in page.words) == ("test" not in given)
    assert ("from minibatch gradients at" in page.words) == ("posterior" not in given)


def test_regression(tmp_path):
    posterior, test = linear_regression()
    chains = draw(posterior, HMC(), num_samples=150, num_warmup=100, thinning=1, batch_size=None)
    made = report(chains, posterior=posterior, laplace=Laplace.fit(posterior), test=test, path=tmp_path / "r.html")
    page = read(made.path)
    assert "both parameters and predictions" in page.words
    assert any("Coverage." in (svg["aria-label"] or "") for svg in page.all("svg"))
    assert "coverage → 0.9" in page.words
    assert "root mean squared error" in page.words


def test_a_sound_run_is_trusted(tmp_path):
    posterior, test = linear_regression()
    chains = draw(posterior, HMC(), num_samples=1000, num_warmup=300, thinning=1, batch_size=None, num_chains=4)
    made = report(chains, posterior=posterior, test=test, path=tmp_path / "r.html")
    assert made.verdict == "trust", made.findings
    assert "Nothing needs to be done" in read(made.path).words


def test_a_run_with_heat_is_not(tmp_path):
    posterior, test = linear_regression()
    chains = draw(posterior, SGLD(lr=0.2), num_samples=500, num_warmup=300, thinning=5, batch_size=4, num_chains=4)
    made = report(chains, posterior=posterior, test=test, path=tmp_path / "r.html")
    assert made.verdict == "do not trust"
    hot = next(f for f in made.findings if f.topic == "temperature")
    assert "too hot" in hot.sentence
    assert hot.remedy.replace("`", "") in read(made.path).words


def test_log_density_with_constraint(tmp_path):
    from torch.distributions import constraints

    target = LogDensity(
        lambda p: -0.5 * (p["mu"] ** 2).sum() + 2 * p["tau"].log() - p["tau"],
        {"mu": torch.zeros(2), "tau": torch.tensor(1.0)},
        {"tau": constraints.positive},
    )
    chains = draw(target, HMC(), batch_size=None, thinning=1, num_warmup=200)
    laplace = Laplace.fit(target, curvature="hessian")
    page = read(report(chains, posterior=target, laplace=laplace, path=tmp_path / "r.html").path)
    assert "tau" in page.words
    assert "no predictions were judged" in page.words


def test_stopped_chains(tmp_path):
    posterior, test = network()
    chains = draw(posterior, num_chains=4)
    diverged = torch.zeros(4, 60, dtype=torch.bool)
    diverged[1, 30:] = True
    chains.sample_stats["diverged"] = diverged
    chains.attrs["stopped"] = {"1": 81}
    for values in chains.draws.values():
        values[1, 30:] = torch.nan
    laplace = Laplace.fit(posterior, structure="diagonal")
    page = read(report(chains, posterior=posterior, laplace=laplace, test=test, path=tmp_path / "r.html").path)
    assert "chain 1 at step 81" in page.words
    assert "1 of 4 chains became non-finite" in page.words


def test_every_chain_stopped(tmp_path):
    posterior, test = network()
    with pytest.warns(UserWarning, match="stopped"):
        chains = draw(posterior, SGLD(lr=1e6), num_warmup=0)
    made = report(chains, posterior=posterior, test=test, path=tmp_path / "r.html")
    assert made.verdict == "do not trust"
    page = read(made.path)
    assert "Every chain was stopped" in page.words
    assert "posterior=" not in page.words  # it was given
    assert "test=" not in page.words
    assert "Lower lr" in page.words


def test_single_chain(tmp_path):
    posterior, test = network()
    made = report(draw(posterior, num_chains=1), posterior=posterior, test=test, path=tmp_path / "r.html")
    assert "There is one chain" in read(made.path).words
    assert made.verdict != "trust"


def test_many_chains(tmp_path):
    page = read(report(fake(40, 60), path=tmp_path / "r.html").path)
    assert "8 of 40 chains" in page.words


def test_interrupted_run(tmp_path):
    chains = fake(draws=200, interrupted=True, num_samples=900, sampler="SGLD", settings={"lr": 0.1}, temperature=1.0)
    assert "after 200 of 900 draws" in read(report(chains, path=tmp_path / "r.html").path).words


@pytest.mark.parametrize("draws", [1, 3, 5])
def test_hardly_any_draws(draws, tmp_path):
    posterior, test = network()
    chains = draw(posterior, num_samples=draws)
    laplace = Laplace.fit(posterior, structure="diagonal")
    made = report(chains, posterior=posterior, laplace=laplace, test=test, path=tmp_path / "r.html")
    assert made.verdict == "do not trust"
    read(made.path)


def test_constant_draws(tmp_path):
    posterior, test = network()
    chains = draw(posterior)
    for values in chains.draws.values():
        values[:] = values[:, :1]
    laplace = Laplace.fit(posterior, structure="diagonal")
    made = report(chains, posterior=posterior, laplace=laplace, test=test, path=tmp_path / "r.html")
    assert made.verdict == "do not trust"
    assert "never moved" in read(made.path).words
    chains = fake()
    chains.draws["a"][..., 1] = 3.0
    assert "never changed" in read(report(chains, path=tmp_path / "r.html").path).words


def test_weights_that_vary(tmp_path):
    posterior, test = network()
    chains = draw(posterior, SGLD(lr=Polynomial(a=0.1)))
    page = read(report(chains, posterior=posterior, test=test, path=tmp_path / "r.html").path)
    assert "in proportion to lr" in page.words
    assert "Polynomial(a=0.1" in page.words


def test_some_parameters_kept(tmp_path):
    posterior, test = network()
    chains = draw(posterior, keep="2.*")
    page = read(
        report(chains, posterior=posterior, laplace=Laplace.fit(posterior), test=test, path=tmp_path / "r.html").path
    )
    assert "kept 2 of 4 parameter tensors" in page.words


def test_many_parameters_stay_small(tmp_path):
    generator = torch.Generator().manual_seed(0)
    chains = Chains(draws={f"layer{i}.weight": torch.randn(4, 50, 1000, generator=generator) for i in range(100)})
    made = report(chains, path=tmp_path / "r.html")
    read(made.path)
    assert made.path.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("sampler", "more"),
    [
        (SGLD(lr=0.05), {}),
        (SGLD(lr=Polynomial(a=0.1, b=2.0), temperature=0.5), {"batches": "epoch", "chain_ids": [3, 7]}),
        (HMC(), {"batch_size": None, "num_samples": 10}),
        (SNGD(lr=0.05, metric=Fisher(damping=0.1)), {"num_samples": 10}),
    ],
)
def test_the_snippet_reproduces_the_draws(sampler, more, tmp_path):
    posterior, _ = network()
    chains = draw(posterior, sampler, seed=11, **more)
    page = read(report(chains, posterior=posterior, path=tmp_path / "r.html").path)
    code = "".join(page.inside["pre"])
    ast.parse(code)
    found: dict = {"posterior": posterior}
    exec(code, found)
    for name, values in chains.draws.items():
        torch.testing.assert_close(found["chains"].draws[name], values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "nowhere/report.html"}, "does not exist"),
        ({"path": "."}, "is a folder"),
        ({"test": (torch.zeros(2, 3), torch.zeros(2))}, "needs posterior="),
        ({"test": torch.zeros(2, 3), "posterior": True}, "must be a pair"),
        ({"posterior": True, "chains": fake()}, "do not belong to this posterior"),
        ({"posterior": True, "laplace": True}, "laplace has"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    posterior, _ = network()
    arguments = dict(arguments)
    chains = arguments.pop("chains", None) or draw(posterior, num_samples=5)
    if "posterior" in arguments:
        arguments["posterior"] = posterior
    if "laplace" in arguments:
        arguments["laplace"] = Laplace.fit(network(hidden=5)[0])
    with pytest.raises(ValueError, match=message):
        report(chains, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_report_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")
    chains = fake()
    monkeypatch.setattr("langevin.diagnostics.sections.build", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report(chains, path=path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_prior_per_layer_and_test_on_dict_inputs(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)

        def forward(self, a, b):
            return self.second(torch.tanh(self.first(torch.stack((a, b), -1))))

    generator = torch.Generator().manual_seed(0)
    data = {"a": torch.randn(80, generator=generator), "b": torch.randn(80, generator=generator)}
    labels = (data["a"] > 0).long()
    posterior = Posterior(
        Named(), categorical, (data, labels), prior={"first.*": Normal(0.0, 1.0), "*": Normal(0.0, 2.0)}
    )
    few = {k: v[:20] for k, v in data.items()}
    read(report(draw(posterior), posterior=posterior, test=(few, labels[:20]), path=tmp_path / "r.html").path)
