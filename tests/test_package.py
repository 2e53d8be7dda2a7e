"""The package as users meet it: what is in it, how it installs, and that its documentation runs as printed."""

from __future__ import annotations

import importlib
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ["samplers/py.typed", "diagnostics/py.typed", "diagnostics/templates/report.html"]
FIXED = {
    "samplers": (
        "Posterior LogDensity categorical bernoulli gaussian heteroscedastic_gaussian poisson "
        "sample find_mode Chains SGLD HMC temperature_of batch_size_for"
    ),
    "diagnostics": "Laplace Ensemble compare convergence temperature report",
}
PAGES = ["README.md", *(f"docs/{page.relative_to(ROOT / 'docs')}" for page in sorted((ROOT / "docs").rglob("*.md")))]


def run(*command: str, cwd: Path, **environment: str) -> str:
    # Without OMP_NUM_THREADS two threads would wait for one another on the small work of these examples.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"} | environment
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("package", FIXED)
def test_public_names_exist_and_are_documented(package):
    module = importlib.import_module(f"langevin.{package}")
    assert set(FIXED[package].split()) <= set(module.__all__)
    page = (ROOT / "docs/api" / f"{package}.md").read_text()
    for name in module.__all__:
        value = getattr(module, name)
        assert value.__doc__, name
        assert value.__doc__ != type(value).__doc__ or type(value).__module__.startswith("langevin"), name
        assert re.search(rf"^   (\w+\.)?{name}$", page, re.MULTILINE), f"{name} is missing from docs/api/{package}.md"


@pytest.mark.parametrize("file", SHIPPED)
def test_data_files_are_installed(file):
    package, _, name = file.partition("/")
    assert importlib.resources.files(f"langevin.{package}").joinpath(name).is_file()


def test_samplers_do_not_import_diagnostics(tmp_path):
    script = "import sys, langevin.samplers; print([m for m in sys.modules if m.startswith('langevin.diagnostics')])"
    assert run(sys.executable, "-c", script, cwd=tmp_path).strip() == "[]"


def test_wheel_and_sdist_hold_everything_and_import_from_anywhere(tmp_path):
    """Build an sdist, a wheel from what the sdist holds, and import the wheel's contents from another folder."""
    source, built = tmp_path / "source", tmp_path / "built"
    source.mkdir()
    built.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("samplers", "diagnostics"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"

    run(sys.executable, "-W", "ignore", "-c", build, "build_sdist", str(built), cwd=source)
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(tmp_path.glob("langevin-*"))
    run(sys.executable, "-W", "ignore", "-c", build, "build_wheel", str(built), cwd=unpacked)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        archive.extractall(tmp_path / "installed")

    installed = tmp_path / "installed" / "langevin"
    modules = {str(path.relative_to(ROOT)) for name in FIXED for path in (ROOT / name).rglob("*.py")}
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert files == modules | set(SHIPPED)
    script = "from langevin import diagnostics, samplers; print(samplers.__file__, diagnostics.__file__)"
    found = run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(installed.parent)).split()
    assert found == [str(installed / name / "__init__.py") for name in FIXED]


def test_versions_agree():
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation
    assert citation[1] == version("langevin")


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs") and code_blocks(page)])
def test_documentation_runs_as_printed(page, tmp_path):
    """All Python blocks of a page, in order, as one script in an empty folder."""
    (tmp_path / "page.py").write_text("\n".join(code_blocks(page)))
    run(sys.executable, "page.py", cwd=tmp_path)


def test_the_readme_example_prints_what_is_printed(tmp_path):
    """The same words, and numbers that differ by no more than another order of floating-point sums can cause."""
    (example,) = code_blocks("README.md")
    assert sum(1 for line in example.splitlines() if line.strip()) <= 16
    shown = re.search(r"^```text\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert shown
    (tmp_path / "example.py").write_text(example)
    printed = run(sys.executable, "example.py", cwd=tmp_path)
    number = r"-?\d+(?:\.\d+)?"
    assert re.sub(number, "#", printed).split() == re.sub(number, "#", shown[1]).split(), printed
    values, expected = ([float(value) for value in re.findall(number, text)] for text in (printed, shown[1]))
    assert values == pytest.approx(expected, abs=0.05), printed
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"
