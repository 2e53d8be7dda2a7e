"""The command line: `langevin demo`, and `langevin report`, `check` and `compare` on runs that `Chains.save` wrote.

A saved run holds draws, not the model, so there everything is judged on the parameters.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..samplers.chains import Chains
from .assessment import assess
from .criteria import criteria
from .demo import demo
from .report import FORMATS, check_path, render, save
from .rules import RULES, num, within
from .sections import size_of, version
from .summary import finite, to_json
from .two_runs import TwoRuns, compare_runs

PASSED, FAILED, ERROR = 0, 1, 2

_SCOPE = """\
A saved run holds draws, not the model, so single parameters are judged. In networks with hidden layers these can
disagree between chains that compute the same function; there, judge predictions in Python:
report(chains, posterior=..., test=...)."""

_NUMBERS = """\
what the numbers mean:
  R̂            spread between chains over spread within them; 1 means that chains cannot be told apart
  ESS          how many independent draws the draws are worth, the smaller of centre (bulk) and tails
  temperature  measured from the draws; above the one asked for, spreads are too wide, below it too narrow
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments after the program's name; those of the process if None.

    Returns
    -------
    int
        Exit status: 0, or 1 where `check` or `compare` found against the run, or 2 where a file could not be used.
        Wrong usage raises SystemExit with status 2, as argparse does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without R̂ shows a question mark
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (OSError, ValueError) as error:
        print(f"langevin: error: {error}", file=sys.stderr)
        return ERROR


def _demo(arguments: argparse.Namespace) -> int:
    demo(arguments.output, quick=arguments.quick)
    return PASSED


def _report(arguments: argparse.Namespace) -> int:
    if arguments.output is not None and Path(arguments.output).resolve() == Path(arguments.run).resolve():
        raise ValueError(f"the output {arguments.output} is the run itself; name another file")
    form = arguments.format or FORMATS.get(Path(arguments.output or "").suffix.lower(), "html")
    output = arguments.output or ("report.html" if form == "html" else None)
    path = None if output is None else check_path(output)
    assessment = assess(_load(arguments.run))
    if path is None:
        print(render(assessment, form), end="")
    else:
        print(save(assessment, path, form))
    return PASSED


def _check(arguments: argparse.Namespace) -> int:
    found = criteria(_load(arguments.run), arguments.max_rhat, arguments.min_ess, arguments.temperature_within)
    passed = all(line.passed for line in found)
    if arguments.json:
        _print_json({"run": arguments.run, "passed": passed, "criteria": [line.as_data() for line in found]})
        return PASSED if passed else FAILED
    columns = [[line.what for line in found], [line.shown for line in found], [line.bound for line in found]]
    widths = [max(map(_width, column)) for column in columns]
    for line, *cells in zip(found, *columns, strict=True):
        padded = [cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)]
        print("  ".join([*padded, "passed" if line.passed else "FAILED"]))
    return PASSED if passed else FAILED


def _compare(arguments: argparse.Namespace) -> int:
    paths = arguments.run_a, arguments.run_b
    first, second = (_load(path) for path in paths)
    runs = compare_runs(first, second)
    notes = _notes(first, second)
    if arguments.json:
        sides = {
            name: {
                "run": path,
                "chains": chains.num_chains,
                "draws_per_chain": chains.num_draws,
                "rhat_largest": judged.max_rhat,
                "ess_smallest": judged.min_ess,
            }
            for name, path, chains, judged in zip("AB", paths, (first, second), runs.judged, strict=True)
        }
        _print_json(runs.as_data() | {"runs": sides, "notes": notes})
        return PASSED if runs.agree else FAILED
    print(runs.sentence)
    for name, path, chains, judged in zip("AB", paths, (first, second), runs.judged, strict=True):
        rhat, least = num(judged.max_rhat, 3, "f"), num(judged.min_ess, 0, "f")
        print(f"  {name}: {path}, {size_of(chains)}, largest R̂ {rhat}, smallest ESS {least}")
    for note in notes:
        print(f"  note: {note}")
    for line in _table(runs):
        print(line)
    return PASSED if runs.agree else FAILED


def _print_json(found: dict[str, Any]) -> None:
    print(to_json(finite(found | {"judged_by": {"langevin": version()}})), end="")


def _notes(first: Chains, second: Chains) -> list[str]:
    notes = []
    asked = [chains.attrs.get("temperature") for chains in (first, second)]
    if asked[0] != asked[1]:
        notes.append(f"asked for temperatures {asked[0]} and {asked[1]}: these are different laws")
    if all(torch.equal(values, second.draws[name]) for name, values in first.draws.items()):
        notes.append("the files hold the same draws: that they agree shows nothing")
    return notes


def _table(runs: TwoRuns) -> list[str]:
    """Quantiles over all numbers, and the numbers that differ most."""

    def quantiles(values: Tensor) -> str:
        values = values[values.isfinite()].abs()
        if not len(values):
            return "–"
        at = torch.tensor([0.5, 0.9, 1.0], dtype=values.dtype)
        return ", ".join(num(float(q), 2) for q in _quantiles(values, at))

    lines = [
        f"  |difference of means| in standard errors, median, 90 %, largest: {quantiles(runs.z_mean)}",
        f"  |log ratio of sds| in standard errors, median, 90 %, largest: {quantiles(runs.z_sd)}",
    ]
    rows = [["worst", "mean A − mean B", "in errors", "sd A / sd B", "in errors"]]
    for row in runs.worst():
        ratio, error = row["sd_ratio"], row["sd_ratio_error"]
        cells = [num(row["mean_difference"]), num(row["mean_difference_in_errors"], 2)]
        rows.append([row["name"], *cells, within(ratio, error), num(row["sd_ratio_in_errors"], 2)])
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in lines]


def _quantiles(values: Tensor, at: Tensor) -> Tensor:
    """Order statistics; `torch.quantile` refuses more than 16 million values."""
    return values.sort().values[(at * (len(values) - 1)).round().long()]


def _load(path: str) -> Chains:
    try:
        chains = Chains.load(path)
    except (OSError, ValueError):
        raise
    except Exception as error:  # HDF5 files of other makers fail in as many ways as there are makers
        raise ValueError(f"{path} cannot be read as a run: {type(error).__name__}: {error}") from error
    if not chains.draws or not chains.num_chains or not chains.num_draws:
        raise ValueError(f"{path} holds no draws")
    return chains


def _width(text: str) -> int:
    """Columns that a text takes: the hat of R̂ takes none."""
    return len(text.replace("\N{COMBINING CIRCUMFLEX ACCENT}", ""))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="langevin",
        description="Judge saved chains: files that Chains.save, or sample(..., checkpoint=...), wrote. Begin with "
        "langevin demo.",
        epilog=f"{_NUMBERS}\n{_SCOPE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"langevin {version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], what: str, more: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=f"{more}\n\n{_NUMBERS}\n{_SCOPE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=run)
        return command

    def add_json(command: argparse.ArgumentParser) -> None:
        what = "print one JSON object instead: every criterion with value, limit and whether it passed, and the outcome"
        command.add_argument("--json", action="store_true", help=f"{what}; numbers that are not finite are null")

    command = add(
        "demo",
        _demo,
        "sample a small network and write a report about it, from nothing but this package",
        "exit status: 0, or 2 on errors",
    )
    command.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        default="langevin-demo",
        help="folder for report.html and run.nc, made if it is not there; default %(default)s",
    )
    command.add_argument(
        "--quick", action="store_true", help="an eighth of the draws: a report in seconds, on chains that are too short"
    )

    command = add("report", _report, "write the verdict on a run, with its evidence", "exit status: 0, or 2 on errors")
    command.add_argument("run", metavar="RUN", help="saved chains")
    command.add_argument("-o", "--output", help="file to write; default report.html, for other formats the terminal")
    command.add_argument(
        "--format",
        choices=("html", "markdown", "json"),
        help="html: a page with figures; markdown, json: verdict, findings, numbers and settings. By default from the "
        "ending of the output, otherwise html",
    )

    status = "exit status: 0 if every criterion passes, 1 if one fails, 2 on errors"
    command = add("check", _check, "hold a run against limits, one line each, for scripts", status)
    command.add_argument("run", metavar="RUN", help="saved chains")
    command.add_argument(
        "--max-rhat",
        type=_limit(1.0, strict=True),
        default=RULES["rhat"].good,
        metavar="R",
        help="largest R̂ (default %(default)s); of 20 parameters or more 95 %% must keep within it, and all within "
        "1 + 5 (R − 1). inf leaves it out",
    )
    command.add_argument(
        "--min-ess",
        type=_limit(0.0),
        default=RULES["ess"].good,
        metavar="N",
        help="smallest ESS (default %(default)s); of 20 parameters or more 95 %% must reach it, and all N/4. 0 leaves "
        "it out",
    )
    command.add_argument(
        "--temperature-within",
        type=_limit(0.0),
        default=RULES["temperature"].good,
        metavar="SHARE",
        help="how far the 95 %% interval of the temperature may lie from the one asked for, and how large its standard "
        "error may be, as a share (default %(default)s). inf leaves it out",
    )
    add_json(command)

    status = """\
Means are compared in Monte-Carlo standard errors of their difference, spreads by their ratio in its own error. The
limit is the one that two runs of the same law exceed anywhere with a probability of at most 1 %. Runs whose own chains
disagree, or are worth too few draws, cannot be said to agree.

exit status: 0 if the runs agree, 1 if they differ or it cannot be told, 2 on errors"""
    command = add("compare", _compare, "say whether two runs of the same target agree", status)
    command.add_argument("run_a", metavar="RUN_A", help="saved chains")
    command.add_argument("run_b", metavar="RUN_B", help="saved chains of the same parameters")
    add_json(command)
    return parser


def _limit(least: float, strict: bool = False) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not (value > least if strict else value >= least):
            raise argparse.ArgumentTypeError(f"must be {'above' if strict else 'at least'} {least:g}, got {text}")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
