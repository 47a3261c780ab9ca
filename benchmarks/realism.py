"""How much a generated fleet looks like recorded ones: equal figures for both, and a classifier that tells them apart.

    TFT_REAL_DATA=FOLDER python benchmarks/realism.py --cache ~/.cache/realism
    TFT_REAL_DATA=FOLDER python benchmarks/realism.py --quick --json
    TFT_REAL_DATA=FOLDER python benchmarks/realism.py --data training --plot plots

FOLDER holds the two Bitbrains months (GWA-T-12 of the Grid Workloads Archive: Shen, van Beek, Iosup, CCGrid 2015).
Without it the script says so and ends. What is measured, and what the figures mean: Docs/REALISM.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import realism_measures as measures
from realism_classifier import Pool, Verdict, draw, draw_matched, tell_apart
from realism_features import KINDS, METRICS
from realism_fleets import REAL_FOLDER, Fleet, generated_fleet, real_fleets, stored_fleet
from rich.console import Console
from rich.table import Table
from scipy.stats import ks_2samp, rankdata

from data_contract import (
    DataFileError,
    ProductError,
)  # found since realism_fleets has put the modules' folder on the path

Floats = npt.NDArray[np.floating[Any]]

MARGINALS: Final = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.999)
OVER_SERVERS: Final = (0.10, 0.25, 0.50, 0.75, 0.90)
LAGS: Final = {"1_step": 1, "1_h": measures.HOUR, "1_day": measures.DAY}
_TELLING_LOSS: Final = 0.002  # nats; hiding a feature that costs less than this is noise

PAIRS: Final = ((0, 1), (0, 2), (1, 2))


@dataclass(frozen=True)
class Effort:
    """How much is looked at."""

    servers_per_fleet: int  # for the figures; the classifier sees windows of all
    windows_whole: int  # of each side
    windows_profile: int
    folds: int


FULL: Final = Effort(500, 2000, 700, 5)
QUICK: Final = Effort(150, 700, 300, 3)


# --------------------------------------------------------------------------------------------------------- the figures
def marginals(fleets: Sequence[Fleet]) -> dict[str, Floats]:
    """Quantiles of all values of some fleets together, by metric."""
    return {
        metric: np.nanquantile(np.concatenate([fleet.metric(k).ravel() for fleet in fleets]), MARGINALS)
        for k, metric in enumerate(METRICS)
    }


def figures(fleet: Fleet) -> dict[str, Floats]:
    """Figures of each server (bursts: of each burst; correlation between servers: of each pair), without NaN."""
    return {name: values[np.isfinite(values)] for name, values in _figures(fleet).items()}


def _figures(fleet: Fleet) -> dict[str, Floats]:
    quiet = measures.quiet_nan
    found: dict[str, Floats] = {}
    for place, metric in enumerate(METRICS):
        x = fleet.metric(place).astype(np.float64)
        found[f"server_median_{metric}"], found[f"server_p95_{metric}"] = quiet(np.nanquantile, x, [0.5, 0.95], axis=1)
        found[f"server_std_{metric}"] = quiet(np.nanstd, x, axis=1)
        for name, lag in LAGS.items():
            found[f"acf_{name}_{metric}"] = measures.autocorrelation(x, lag)
        found[f"daily_share_{metric}"] = measures.daily_share(x)
        found[f"weekly_share_{metric}"] = measures.weekly_share(x)
        bursts = measures.find_bursts(x, measures.BURST_FLOOR[metric])
        found[f"bursts_per_server_day_{metric}"] = bursts.rate()
        found[f"burst_minutes_{metric}"] = bursts.steps * 5.0
        found[f"burst_height_{metric}"] = bursts.height
        found[f"repeat_share_{metric}"] = measures.repeat_share(x)
        found[f"zero_share_{metric}"] = measures.zero_share(x)
        found[f"distinct_share_{metric}"] = measures.distinct_share(x)
        found[f"decimals_{metric}"] = measures.decimals(x)
    for one, two in PAIRS:
        name = f"spearman_{METRICS[one].split('_')[0]}_{METRICS[two].split('_')[0]}"
        found[name] = measures.spearman(fleet.metric(one), fleet.metric(two))
    found["between_servers_cpu_pct"] = measures.correlation_between(fleet.metric(0))
    found["between_servers_cpu_pct_without_daily"] = measures.correlation_between(
        measures.without_daily_profile(fleet.metric(0))
    )
    return found


# ------------------------------------------------------------------------------------------------------ the classifier
@dataclass
class Judgement:
    """What the classifier said: verdicts by name, and what gave the generated windows away."""

    verdicts: dict[str, Verdict | None] = field(default_factory=dict)
    clues: dict[str, list[Clue]] = field(default_factory=dict)


@dataclass(frozen=True)
class Clue:
    """A feature that gives generated windows away."""

    feature: str
    loss: float  # held-out log loss (nats) that hiding it costs
    alone: float  # AUC of this feature by itself, by rank
    real: Floats  # p10, p50, p90 over the days
    generated: Floats


def judge(real: Sequence[Fleet], made: Fleet, effort: Effort, seed: int) -> Judgement:
    """Let the classifier tell generated from real days: whole fleet, by profile, by group of features; references."""
    rng = np.random.default_rng([seed, 3])
    theirs, ours = Pool(real, "real/"), Pool([made], "generated/")
    judgement = Judgement()

    def compare(name: str, one: tuple[Pool, Any], two: tuple[Pool, Any], *, clues: int = 0, keep: Any = None) -> None:
        if len(one[1]) == 0 or len(two[1]) == 0:
            judgement.verdicts[name] = None
            return
        parts = [pool.features(index) for pool, index in (one, two)]
        names = [feature for feature in one[0].kinds if keep is None or keep(feature)]
        columns = [place for place, feature in enumerate(one[0].kinds) if feature in set(names)]
        x = np.concatenate(parts)[:, columns]
        is_second = np.repeat([False, True], [len(part) for part in parts])
        group = np.concatenate([pool.group[index] for pool, index in (one, two)])
        verdict = tell_apart(x, is_second, group, names, folds=effort.folds, seed=seed, important=clues > 0)
        judgement.verdicts[name] = verdict
        if verdict is not None and verdict.importance:
            judgement.clues[name] = _clues(verdict, x, is_second, names, clues)

    whole_real = draw(rng, np.arange(len(theirs)), effort.windows_whole)
    whole_made = draw(rng, np.arange(len(ours)), effort.windows_whole)
    whole = (theirs, whole_real), (ours, whole_made)
    theirs.features(whole_real)
    kinds = theirs.kinds
    compare("whole_fleet", *whole, clues=12)
    compare("whole_fleet_without_grain", *whole, clues=12, keep=lambda feature: kinds[feature] != "grain")
    compare("whole_fleet_shape_only", *whole, clues=12, keep=lambda feature: kinds[feature] == "shape")
    for metric in METRICS:
        compare(f"whole_fleet_{metric}_only", *whole, keep=lambda feature, m=metric: feature.startswith(m))
        for kind in KINDS:
            compare(
                f"whole_fleet_{metric}_{kind}_only",
                *whole,
                keep=lambda feature, m=metric, k=kind: feature.startswith(m) and kinds[feature] == k,
            )
    compare("whole_fleet_correlations_only", *whole, keep=lambda feature: feature.startswith("correlation"))

    everything = np.arange(len(theirs))
    for profile in sorted(set(ours.profile.tolist())):
        of_profile = np.flatnonzero(ours.profile == profile)
        some = draw(rng, of_profile, effort.windows_profile)
        compare(profile, (theirs, draw(rng, everything, len(some))), (ours, some), clues=5)
        mine, matched = draw_matched(rng, ours, of_profile, theirs, everything, effort.windows_profile)
        compare(f"{profile}_matched", (theirs, matched), (ours, mine), clues=5)

    months = [draw(rng, np.flatnonzero(theirs.month == month), effort.windows_whole) for month in (0, 1)]
    compare("real_july_vs_august", (theirs, months[0]), (theirs, months[1]), clues=5)
    # The archetypes were made of July: the other month says whether that flatters them.
    compare("whole_fleet_august_only", (theirs, months[1]), whole[1])
    servers = rng.permutation(np.unique(theirs.group))
    in_half = np.isin(theirs.group, servers[: len(servers) // 2])
    halves = [draw(rng, np.flatnonzero(in_half == side), effort.windows_whole) for side in (False, True)]
    compare("real_half_vs_half", (theirs, halves[0]), (theirs, halves[1]))
    return judgement


def _clues(
    verdict: Verdict, features: Floats, is_made: npt.NDArray[np.bool_], names: list[str], most: int
) -> list[Clue]:
    """Features by what hiding them costs; where one feature settles it and hides the others, by what each could do."""
    clues = []
    for place, name in enumerate(names):
        column = features[:, place]
        sides = [measures.quiet_nan(np.nanquantile, column[is_made == side], [0.1, 0.5, 0.9]) for side in (False, True)]
        clues.append(Clue(name, verdict.importance[name], _alone(column, is_made), sides[0], sides[1]))
    clues.sort(key=lambda clue: (-clue.loss if clue.loss > _TELLING_LOSS else 0.0, -np.nan_to_num(clue.alone)))
    return clues[:most]


def _alone(column: Floats, is_made: npt.NDArray[np.bool_]) -> float:
    """Area under the ROC curve of one feature by itself, whichever way round."""
    there = np.isfinite(column)
    made, real = int(is_made[there].sum()), int((~is_made[there]).sum())
    if not made or not real:
        return float("nan")
    ranks = rankdata(column[there])
    area = (ranks[is_made[there]].sum() - made * (made + 1) / 2) / (made * real)
    return float(max(area, 1 - area))


# ---------------------------------------------------------------------------------------------------------- the report
def number(value: float) -> str:
    """A figure with three significant digits."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.3f}" if 0.01 <= abs(value) < 10 or value == 0 else f"{value:.3g}"


def show(result: Result, console: Console) -> None:
    """Print everything as tables."""
    sides = (("real", result.real), ("generated", result.made))
    table = Table("metric", "fleet", *[f"p{100 * q:g}" for q in MARGINALS], title="All values pooled")
    for metric in METRICS:
        for side, (pooled, _) in sides:
            table.add_row(metric, side, *map(number, pooled[metric]))
    console.print(table)

    table = Table(
        "figure of a server", *[f"p{100 * q:g}" for q in OVER_SERVERS], "│", *[f"p{100 * q:g}" for q in OVER_SERVERS],
        "KS", "KS of the two months", title="Real (left) and generated (right): quantiles over servers",
    )  # fmt: skip
    for name, distance in result.distances.items():
        quantiles = [_over_servers(of_servers[name]) for _, (_, of_servers) in sides]
        table.add_row(
            name, *map(number, quantiles[0]), "│", *map(number, quantiles[1]),
            number(distance), number(result.floor_distances[name]),
        )  # fmt: skip
    console.print(table)
    console.print(
        "KS: largest difference of the two cumulative distributions, 0 to 1. "
        f"Mean {np.nanmean(list(result.distances.values())):.3f}; "
        f"between the two recorded months {np.nanmean(list(result.floor_distances.values())):.3f}."
    )

    table = Table("told apart", "AUC", "± over folds", "windows", "servers", title="Can a classifier tell them apart?")
    for name, verdict in result.judgement.verdicts.items():
        if verdict is None:
            table.add_row(name, "–", "", "", "too few alike")
        else:
            table.add_row(
                name, f"{verdict.auc:.3f}", f"{verdict.auc_std:.3f}", str(verdict.windows), str(verdict.servers)
            )
    console.print(table)
    for name, clues in result.judgement.clues.items():
        sides_told = ("July", "August") if name == "real_july_vs_august" else ("real", "generated")
        table = Table("feature", "loss", "alone", *sides_told, title=f"What tells them apart: {name}")
        for clue in clues:
            both = [" / ".join(map(number, side)) for side in (clue.real, clue.generated)]
            table.add_row(clue.feature, number(clue.loss), number(clue.alone), *both)
        console.print(table)
    console.print(
        "loss: log loss (nats) on unseen servers that hiding it costs; alone: AUC of it by itself; p10 / p50 / p90."
    )


def _over_servers(values: Floats) -> Floats:
    return np.quantile(values, OVER_SERVERS) if len(values) else np.full(len(OVER_SERVERS), np.nan)


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    real: tuple[dict[str, Floats], dict[str, Floats]]
    made: tuple[dict[str, Floats], dict[str, Floats]]
    distances: dict[str, float]
    floor_distances: dict[str, float]
    judgement: Judgement
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """One flat object for `--json`; the median over servers has the figure's plain name."""
        found: dict[str, Any] = {}
        for name, verdict in self.judgement.verdicts.items():
            found[f"auc_{name}"] = None if verdict is None else round(verdict.auc, 4)
            found[f"auc_{name}_std"] = None if verdict is None else round(verdict.auc_std, 4)
            found[f"windows_{name}"] = 0 if verdict is None else verdict.windows
        for side, (pooled, of_servers) in (("real", self.real), ("generated", self.made)):
            for metric, values in pooled.items():
                found |= {
                    f"{metric}_p{100 * q:g}_{side}": _rounded(value) for q, value in zip(MARGINALS, values, strict=True)
                }
            for name, values in of_servers.items():
                found[f"{name}_{side}"] = _rounded(float(np.median(values)) if len(values) else np.nan)
                found[f"{name}_mean_{side}"] = _rounded(float(np.mean(values)) if len(values) else np.nan)
                found |= {
                    f"{name}_p{100 * q:g}_{side}": _rounded(value)
                    for q, value in zip(OVER_SERVERS, _over_servers(values), strict=True)
                    if q != 0.5
                }
        found |= {f"ks_{name}": _rounded(value) for name, value in self.distances.items()}
        found["ks_mean"] = _rounded(float(np.nanmean(list(self.distances.values()))))
        found["ks_mean_real_july_vs_august"] = _rounded(float(np.nanmean(list(self.floor_distances.values()))))
        found["clues"] = {name: [clue.feature for clue in clues] for name, clues in self.judgement.clues.items()}
        found["benchmark_seconds"] = round(self.seconds, 1)
        return found


def _rounded(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def _distances(one: dict[str, Floats], two: dict[str, Floats]) -> dict[str, float]:
    return {
        name: float(ks_2samp(values, two[name], method="asymp").statistic)
        if len(values) and len(two[name])
        else float("nan")
        for name, values in one.items()
    }


def measure(real: dict[str, Fleet], made: Fleet, effort: Effort, seed: int) -> Result:
    """Measure both fleets, and let the classifier judge."""
    begin = time.perf_counter()
    rng = np.random.default_rng([seed, 2])
    months = [figures(fleet.some(effort.servers_per_fleet, rng)) for fleet in real.values()]
    both = {name: np.concatenate([month[name] for month in months]) for name in months[0]}
    ours = figures(made.some(effort.servers_per_fleet, rng))
    return Result(
        real=(marginals(list(real.values())), both),
        made=(marginals([made]), ours),
        distances=_distances(both, ours),
        floor_distances=_distances(months[0], months[1]),
        judgement=judge(list(real.values()), made, effort, seed),
        seconds=time.perf_counter() - begin,
    )


def main() -> None:
    """Compare and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", type=int, default=180, help="size of the generated fleet (180)")
    parser.add_argument("--seed", type=int, default=42, help="of the generated fleet and of all that is drawn (42)")
    parser.add_argument("--data", type=Path, help="contract data to judge instead of a generated fleet")
    parser.add_argument("--quick", action="store_true", help="fewer windows and servers: to iterate")
    parser.add_argument("--cache", type=Path, help="folder to keep the imported months in")
    parser.add_argument("--plot", type=Path, help="folder to write realism.html to")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    options = parser.parse_args()
    console = Console(stderr=options.json, width=None if Console().is_terminal else 200)
    try:
        said = compare_fleets(options, console)
    except ProductError as error:
        console.print(str(error), style="red", markup=False)
        raise SystemExit(1) from error
    if options.json and said is not None:
        print(json.dumps(said))


def compare_fleets(options: argparse.Namespace, console: Console) -> dict[str, Any] | None:
    """Measure and show; the figures for `--json`, or None where there is nothing to compare with."""
    begin = time.perf_counter()
    real = real_fleets(options.cache)
    if real is None:
        console.print(
            f"The recorded months are not here: set {REAL_FOLDER} to the folder that holds them (Docs/REALISM.md)."
        )
        return None
    made = stored_fleet(options.data) if options.data else generated_fleet(options.servers, options.seed)
    result = measure(real, made, QUICK if options.quick else FULL, options.seed)
    show(result, console)
    if options.plot:
        from realism_plot import write_page  # plotly takes a second to import

        try:
            page = write_page(options.plot, list(real.values()), made, options.seed)
        except OSError as error:
            raise DataFileError(
                f"The charts cannot be written to {options.plot}: {error.strerror or error}.",
                why="The figures above are complete; only the page is missing.",
                fix="Choose another folder with --plot.",
                document="Docs/REALISM.md",
            ) from error
        console.print(f"Charts: {page}")
    console.print(f"{time.perf_counter() - begin:.0f} s")
    return result.as_dict()


if __name__ == "__main__":
    main()
