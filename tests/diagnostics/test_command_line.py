"""The command line on saved runs: exit statuses, messages, and that it says what the verdict says."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from langevin.diagnostics import convergence, report, temperature
from langevin.diagnostics.assessment import assess
from langevin.diagnostics.command_line import main
from langevin.diagnostics.criteria import criteria
from langevin.diagnostics.report import render
from langevin.diagnostics.two_runs import compare_runs
from langevin.samplers import HMC, SGLD, Chains, LogDensity, sample

DRAWS = 500


def draw(sampler, seed: int = 0, **more) -> Chains:
    target = LogDensity(
        lambda p: -0.5 * (p["a"] ** 2).sum() - 2 * (p["b"] - 1) ** 2, {"a": torch.zeros(2), "b": torch.tensor(0.0)}
    )
    settings = {"num_samples": DRAWS, "num_warmup": 50, "num_chains": 4, "progress": False, "compile": False} | more
    return sample(target, sampler, seed=seed, **settings)


@pytest.fixture(scope="module")
def good() -> Chains:
    return draw(HMC())


@pytest.fixture(scope="module")
def hot() -> Chains:
    return draw(SGLD(lr=0.4), thinning=2)  # the law of these steps is at 1/(1 − 0.2) along a, 1/(1 − 0.8) along b


def exact(seed: int = 1) -> Chains:
    """Independent draws from the target of `draw`."""
    generator = torch.Generator().manual_seed(seed)
    return Chains(
        draws={
            "a": torch.randn(4, DRAWS, 2, generator=generator),
            "b": 1 + 0.5 * torch.randn(4, DRAWS, generator=generator),
        },
        attrs={"temperature": 1.0},
    )


def shifted(chains: Chains, by: float = 3.0, chain: int | slice = 1) -> Chains:
    draws = {name: values.clone() for name, values in chains.draws.items()}
    draws["a"][chain] += by
    return replace(chains, draws=draws)


def fake(seed: int = 0, dim: int = 60, rho: float = 0.0, draws: int = 400) -> Chains:
    """Chains of independent autoregressions, at their stationary law from the start."""
    noise = torch.randn(4, draws, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for i in range(1, draws):
        noise[:, i] = rho * noise[:, i - 1] + math.sqrt(1 - rho**2) * noise[:, i]
    return Chains(draws={"a": noise.float()})


@pytest.fixture
def save(tmp_path):
    def saved(chains: Chains, name: str = "run.nc") -> str:
        chains.save(tmp_path / name)
        return str(tmp_path / name)

    return saved


def strict(text: str) -> dict:
    """Read JSON, which has no NaN and no Infinity."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def lines_of(text: str) -> dict[str, str]:
    """Criterion to its line."""
    return {line.split("  ")[0]: line for line in text.splitlines()}


# check


def test_a_good_run_passes(good, save, capsys):
    assert main(["check", save(good)]) == 0
    lines = lines_of(capsys.readouterr().out)
    assert all(line.endswith("passed") for line in lines.values())
    assert f"{convergence(good).max_rhat:.4f}" in lines["largest R̂"]
    assert f"{convergence(good).min_ess:,.0f}" in lines["smallest ESS"]
    assert "asked for 1" in lines["temperature"]


def test_chains_that_disagree_fail(good, save, capsys):
    assert main(["check", save(shifted(good))]) == 1
    lines = lines_of(capsys.readouterr().out)
    assert lines["largest R̂"].endswith("FAILED")
    assert lines["smallest ESS"].endswith("FAILED")
    assert lines["stopped chains"].endswith("passed")


def test_a_hot_run_fails_by_its_temperature_alone(hot, save, capsys):
    path = save(hot)
    assert main(["check", path, "--min-ess", "200", "--max-rhat", "1.03"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAILED")]
    assert [line.split("  ")[0] for line in failed] == ["temperature"]
    for heat in ("2", "inf"):
        assert main(["check", path, "--min-ess", "200", "--max-rhat", "1.03", "--temperature-within", heat]) == 0
    assert "temperature" not in lines_of(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(("option", "value"), [("--max-rhat", "1.00001"), ("--min-ess", "100000")])
def test_limits_are_those_given(option, value, good, save):
    path = save(good)
    assert main(["check", path, option, value]) == 1
    assert main(["check", path, option, {"--max-rhat": "inf", "--min-ess": "0"}[option]]) == 0


def test_what_cannot_be_measured_fails(good, save, capsys):
    assert main(["check", save(fake())]) == 1
    assert "not measured" in lines_of(capsys.readouterr().out)["temperature"]
    one = replace(good, draws={k: v[:1] for k, v in good.draws.items()}, sample_stats={}, attrs={})
    assert main(["check", save(one), "--temperature-within", "inf", "--min-ess", "0"]) == 1
    assert "–" in lines_of(capsys.readouterr().out)["largest R̂"]
    still = replace(good, draws=good.draws | {"c": torch.ones(4, DRAWS)})
    assert main(["check", save(still)]) == 1
    assert lines_of(capsys.readouterr().out)["undefined R̂ or ESS"].endswith("FAILED")


def test_an_imprecise_temperature_is_none(good):
    wild = replace(good, sample_stats=good.sample_stats | {"temperature": 1 + 8 * torch.randn(4, DRAWS)})
    failed = [line.what for line in criteria(wild) if not line.passed]
    assert "its standard error" in failed


@pytest.mark.parametrize("stopped", [1, 4])
def test_stopped_chains_fail(stopped, good, save, capsys):
    diverged = torch.zeros(4, DRAWS, dtype=torch.bool)
    diverged[:stopped, 100:] = True
    chains = replace(
        good,
        sample_stats=good.sample_stats | {"diverged": diverged},
        attrs=good.attrs | {"stopped": {str(i): 200 for i in range(stopped)}},
    )
    path = save(chains)
    assert main(["check", path]) == 1
    line = lines_of(capsys.readouterr().out)["stopped chains"]
    assert line.endswith("FAILED")
    assert f" {stopped} " in line
    assert main(["report", path, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["numbers"]["chains_stopped"] == stopped


def test_of_many_numbers_the_worst_are_held_to_wider_limits():
    chains = fake()
    worse = shifted(chains, 0.45, 0)  # R̂ of all numbers about 1.02
    few = replace(chains, draws={"a": torch.cat((worse.draws["a"][..., :2], chains.draws["a"][..., 2:]), -1)})
    for run, passed in ((few, [True, True]), (worse, [False, True])):
        rhat = [line for line in criteria(run) if "R̂" in line.what and "undefined" not in line.what]
        assert [line.what for line in rhat] == ["R̂ of 95 %", "largest R̂"]
        assert [line.passed for line in rhat] == passed
        assert [line.limit for line in rhat] == pytest.approx([1.01, 1.05])


def test_check_and_verdict_agree_on_the_same_limits(good, hot, tmp_path):
    for chains in (good, hot, shifted(good), fake()):
        failed = any(not line.passed for line in criteria(chains, heat=0.1 if chains.attrs else math.inf))
        assert failed == (report(chains, path=tmp_path / "r.html").verdict != "trust")


@pytest.mark.parametrize("kind", ["good", "bad", "unknown"])
def test_check_as_json_says_what_the_lines_say(kind, good, save, capsys):
    path = save({"good": good, "bad": shifted(good), "unknown": fake()}[kind])
    status = main(["check", path, "--json"])
    found = strict(capsys.readouterr().out)
    assert main(["check", path]) == status == (kind != "good")
    lines = lines_of(capsys.readouterr().out)
    assert found["run"] == path
    assert found["passed"] == (status == 0)
    assert {line["what"]: line["passed"] for line in found["criteria"]} == {
        what: line.endswith("passed") for what, line in lines.items()
    }
    values = {line["what"]: line for line in found["criteria"]}
    if kind == "unknown":
        assert values["temperature"]["value"] is None
        assert values["R̂ of 95 %"]["bound"] == "at most"
    else:
        judged = convergence(Chains.load(path))
        assert (values["largest R̂"]["value"], values["largest R̂"]["limit"]) == (judged.max_rhat, 1.01)
        ess = values["smallest ESS"]
        assert (ess["value"], ess["limit"], ess["bound"]) == (judged.min_ess, 400, "at least")


# demo


def test_the_demo_writes_what_it_says(tmp_path, capsys):
    folder = tmp_path / "new"
    assert main(["demo", "--quick", "-o", str(folder)]) == 0
    text = capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"report.html", "run.nc"}
    assert Chains.load(folder / "run.nc").num_draws == 50
    assert "Verdict: " in text
    assert "Verdict: trust" not in text
    assert "too short on purpose" in text
    for command in [line.strip() for line in text.splitlines() if line.startswith("  langevin ")]:
        assert main(command.split()[1:]) in (0, 1)


@pytest.mark.slow
def test_the_demo_deserves_trust(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path)]) == 0
    assert "Verdict: trust" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "run.nc")]) == 0


def test_a_demo_needs_a_place(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for name, why in (("no/demo", "does not exist"), ("file", "is a file")):
        assert main(["demo", "-o", str(tmp_path / name)]) == 2
        captured = capsys.readouterr()
        assert why in captured.err
        assert captured.out == ""


# report


@pytest.mark.parametrize("kind", ["good", "hot", "bad", "all the same", "one chain"])
def test_json_says_what_the_report_says(kind, good, hot, save, capsys, tmp_path):
    chains = {
        "good": good,
        "hot": hot,
        "bad": shifted(good),
        "all the same": Chains(draws={"a": torch.ones(2, 50)}),
        "one chain": Chains(draws={"a": torch.randn(1, 50, 2)}),
    }[kind]
    assert main(["report", save(chains), "--format", "json"]) == 0
    said = strict(capsys.readouterr().out)
    made = report(chains, path=tmp_path / "r.html")
    assert said["verdict"] == made.verdict
    assert said["sentences"] == made.sentences
    assert [(f["level"], f["topic"], f["sentence"], f["remedy"]) for f in said["findings"]] == [
        (f.level, f.topic, f.sentence, f.remedy) for f in made.findings
    ]
    if kind in ("good", "hot", "bad"):
        assert said["numbers"]["rhat_largest"] == convergence(chains).max_rhat
        assert said["numbers"]["ess_smallest"] == convergence(chains).min_ess
        reading = temperature(chains)
        assert said["numbers"]["temperature"]["interval_95_percent"] == list(reading.interval)
        assert said["run"]["versions"] == chains.attrs["versions"]
        assert said["run"]["settings"] == chains.attrs["settings"]
    else:
        assert said["numbers"]["rhat_largest"] is None


def test_markdown_says_it_too(hot, save, capsys):
    path = save(hot)
    assert main(["report", path, "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "**Verdict: do not trust**" in text or "**Verdict: look**" in text
    for found in assess(hot).verdict.findings:
        assert found.sentence in text
    assert f"| largest R̂ | {convergence(hot).max_rhat:.3f} |" in text
    assert "lr: 0.4" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_names_do_not_break_the_tables():
    chains = Chains(draws={"<b>|\nx": torch.randn(2, 60)}, attrs={"sampler": "<i>|"})
    text = render(assess(chains), "markdown")
    assert "<b>" not in text
    assert "&lt;b>\\| x" in text


def test_numbers_that_are_not_finite_become_null():
    chains = fake(dim=2)
    chains.attrs["settings"] = {"max": math.inf, "more": [math.nan, 1.0]}
    assert strict(render(assess(chains), "json"))["run"]["settings"] == {"max": None, "more": [None, 1.0]}


@pytest.mark.parametrize(
    ("options", "name", "begins"),
    [([], "r.html", "<!doctype"), ([], "r.json", "{"), ([], "r.md", "# HMC"), (["--format", "json"], "r.txt", "{")],
)
def test_the_file_is_of_the_format_asked_for(options, name, begins, good, save, tmp_path, capsys):
    assert main(["report", save(good), "-o", str(tmp_path / name), *options]) == 0
    assert (tmp_path / name).read_text("utf-8").lower().startswith(begins.lower())
    said = capsys.readouterr().out
    assert "Verdict: trust" in said
    assert name in said


def test_the_page_is_report_html_by_default(good, save, tmp_path, monkeypatch):
    path = save(good)
    monkeypatch.chdir(tmp_path)
    assert main(["report", path]) == 0
    assert (tmp_path / "report.html").is_file()


# compare


def test_two_runs_of_one_target_agree(good, save, capsys):
    assert main(["compare", save(good, "a.nc"), save(exact(), "b.nc")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("The runs agree")
    assert "sd A / sd B" in text


@pytest.mark.parametrize("change", ["mean", "sd"])
def test_runs_that_differ_are_told_apart(change, good, save, capsys):
    other = shifted(exact(), 0.3, slice(None)) if change == "mean" else exact()
    if change == "sd":
        other.draws["a"] *= 1.3
    assert main(["compare", save(good, "a.nc"), save(other, "b.nc")]) == 1
    text = capsys.readouterr().out
    assert "differ: " in text.splitlines()[0]
    worst = text.splitlines()[text.splitlines().index(next(x for x in text.splitlines() if "worst" in x)) + 1]
    assert worst.strip().startswith("a[")


@pytest.mark.parametrize("kind", ["agree", "differ", "infinitely", "unfit"])
def test_compare_as_json_says_what_the_lines_say(kind, good, save, capsys):
    still = good.draws | {"c": torch.ones(4, DRAWS)}
    first = replace(good, draws=still) if kind == "infinitely" else good
    second = {
        "agree": exact(),
        "differ": shifted(exact(), 0.3, slice(None)),
        "infinitely": replace(good, draws=still | {"c": 2 * still["c"]}),
        "unfit": shifted(good),
    }[kind]
    paths = [save(first, "a.nc"), save(second, "b.nc")]
    status = main(["compare", *paths, "--json"])
    found = strict(capsys.readouterr().out)
    assert main(["compare", *paths]) == status == (kind != "agree")
    text = capsys.readouterr().out
    assert found["sentence"] == text.splitlines()[0]
    assert found["agree"] == all(line["passed"] for line in found["criteria"]) == (status == 0)
    assert [found["runs"][name]["run"] for name in "AB"] == paths
    assert found["runs"]["B"]["rhat_largest"] == convergence(second).max_rhat
    assert [row["name"] in text for row in found["worst"]] == [True] * len(found["worst"])
    if kind == "infinitely":
        assert found["criteria"][1]["value"] is None
        assert found["numbers_that_differ"] == 1


def test_runs_whose_chains_disagree_cannot_be_said_to_agree(good, save, capsys):
    assert main(["compare", save(good, "a.nc"), save(shifted(good), "b.nc")]) == 1
    assert "chains of run B disagree among themselves" in capsys.readouterr().out


def test_the_same_draws_and_other_temperatures_are_named(good, save, capsys):
    other = replace(good, attrs=good.attrs | {"temperature": 2.0})
    assert main(["compare", save(good, "a.nc"), save(other, "b.nc")]) == 0
    text = capsys.readouterr().out
    assert "the same draws" in text
    assert "temperatures 1.0 and 2.0" in text


def test_compare_has_calibrated_errors():
    """Autocorrelated, and for the squares skewed: z of means and of spreads have unit variance, and few runs differ."""
    runs = [compare_runs(fake(2 * i, 100, 0.5), fake(2 * i + 1, 100, 0.5)) for i in range(3)]
    assert sum(not run.agree for run in runs) == 0
    for name in ("z_mean", "z_sd"):
        z = torch.cat([getattr(run, name) for run in runs])
        assert 0.85 < float(z.std()) < 1.15
        assert abs(float(z.mean())) < 0.2


def test_numbers_at_rest_agree_only_at_one_value(good):
    def pinned(value: torch.Tensor) -> Chains:
        return replace(good, draws=good.draws | {"c": value})

    still = torch.ones(4, DRAWS)
    assert compare_runs(pinned(still), pinned(still)).agree
    assert not compare_runs(pinned(still), pinned(still + 1e-3)).agree
    assert not compare_runs(pinned(still), pinned(still + torch.randn(4, DRAWS))).agree


def test_parameters_must_be_the_same(good, save, capsys):
    renamed = replace(good, draws={"a": good.draws["a"], "c": good.draws["b"]})
    reshaped = replace(good, draws=good.draws | {"a": good.draws["a"][..., :1]})
    for other, named in ((renamed, "'b' is in A only"), (reshaped, "shape (2,) in A and (1,) in B")):
        assert main(["compare", save(good, "a.nc"), save(other, "b.nc")]) == 2
        assert named in capsys.readouterr().err


# errors and entry points


def test_files_that_are_no_runs_are_named(tmp_path, capsys):
    text = tmp_path / "notes.txt"
    text.write_text("nothing")
    for path, why in ((tmp_path / "absent.nc", "no saved chains"), (text, "not a netCDF"), (tmp_path, "no saved")):
        for command in (["check"], ["report"], ["compare", str(path)]):
            assert main([*command, str(path)]) == 2
            error = capsys.readouterr().err
            assert why in error
            assert error.startswith("langevin: error: ")


def test_other_netcdf_and_hdf5_files_are_refused(tmp_path, capsys):
    import h5py
    import xarray

    xarray.Dataset({"x": 1.0}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = [1.0, 2.0]
    for name in ("other.nc", "other.h5"):
        assert main(["check", str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(good, save, tmp_path, capsys):
    for name in ("no/r.html", "no/r.json"):
        assert main(["report", save(good), "-o", str(tmp_path / name)]) == 2
        assert "no/r" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["html", "json"])
def test_a_run_is_not_overwritten(form, good, save, capsys):
    path = save(good)
    assert main(["report", path, "-o", path, "--format", form]) == 2
    assert "is the run itself" in capsys.readouterr().err
    assert Chains.load(path).num_draws == DRAWS


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["judge"],
        ["check"],
        ["check", "x", "--max-rhat", "0.9"],
        ["check", "x", "--min-ess", "nan"],
        ["compare", "x"],
    ],
)
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: langevin" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "report", "check", "compare"])
def test_help_says_what_the_numbers_mean(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in ("R̂  ", "ESS", "temperature", "exit status", "hidden layers"):
        assert word in text


def test_python_m_and_the_script(good, save):
    """The module as a process, its output in a locale without R̂; and the script's entry point exists."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "langevin.diagnostics", "check", save(shifted(good))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "FAILED" in done.stdout
    root = Path(__file__).parents[2]
    module, name = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["langevin"].split(":")
    assert getattr(importlib.import_module(module), name) is main
