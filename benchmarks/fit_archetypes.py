"""How the archetypes of `fleet_archetypes.parquet` were measured: what real machines are like, without their data.

    TFT_REAL_DATA=DIR python benchmarks/fit_archetypes.py --out fleet_archetypes.parquet

Reads one month of the Bitbrains "rnd" trace (July 2013; `benchmarks/realism.py` judges by August, too), brings it under
the contract with the product's own importer, and describes each machine by statistics only: quantiles of each metric,
how much of the movement follows the day and the hour, how long the rest is remembered, how the metrics move together.
Machines with 20 days or more of every metric are kept, and given to the seven profiles that they resemble, in the
proportions of the default fleet.

Source of the trace: Grid Workloads Archive, GWA-T-12 Bitbrains; S. Shen, V. van Beek, A. Iosup, "Statistical
characterization of business-critical workloads hosted in cloud datacenters", CCGrid 2015.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import linear_sum_assignment, nnls
from scipy.special import ndtr
from scipy.stats import rankdata

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_contract import DEFAULT_FLEET
from fleet_archetypes import KNOTS, QUICK_NOISES, Archetypes, noise_correlations
from fleet_load import Load
from metrics_importer import import_files, load_preset

METRICS = ("cpu_pct", "mem_pct", "disk_io_mb_s")
TRACE = "bitbrains_rnd_5min_2013-07.parquet"
PAIRS = (("cpu_pct", "mem_pct"), ("cpu_pct", "disk_io_mb_s"), ("mem_pct", "disk_io_mb_s"))
TURNS = 2
LAGS = np.array([0, 1, 2, 3, 6, 12, 36, 72, 144, 288, 576])
IMPORTANCE = np.array([6, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1])  # of each lag: the next step is seen most clearly
DAY = 288
DIGITS = {"quantum": 6, "beat": 2, "weights": 2}  # significant ones; 3 for the rest
SOURCE = (
    "Statistics of machines of the GWA-T-12 Bitbrains trace (rnd, July 2013), Grid Workloads Archive; S. Shen, V. van "
    "Beek, A. Iosup, CCGrid 2015. Made by benchmarks/fit_archetypes.py."
)


def autocorrelation(series: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Autocorrelation of a series with gaps (NaN), at the given lags."""
    centred = series - np.nanmean(series)
    variance = np.nanmean(centred**2)
    return np.array([np.nanmean(centred[: len(centred) - lag] * centred[lag:]) / variance for lag in lags])


def scores_of(values: np.ndarray) -> np.ndarray:
    """Values as they are seen, standardised, without the one percent that would drown all else."""
    low, high = np.nanquantile(values, [0.003, 0.993])
    clipped = np.clip(values, low, high)
    return (clipped - np.nanmean(clipped)) / max(float(np.nanstd(clipped)), 1e-9)


def share_of(series: np.ndarray, group: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of variance that the means of groups explain, less what they explain of noise; and these means."""
    there = np.isfinite(series)
    groups = int(group.max()) + 1
    counts = np.bincount(group[there], minlength=groups)
    means = np.bincount(group[there], series[there], minlength=groups) / np.maximum(counts, 1)
    fitted = means[group] - series[there].mean()
    total, rest = series[there].var(), (series[there] - means[group[there]]).var()
    if total < 1e-9:
        return 0.0, np.zeros(len(series))
    share = 1 - rest / total * (there.sum() - 1) / max(1, there.sum() - groups)
    return float(np.clip(share, 0, 1)), fitted


def grain_of(values: np.ndarray, metric: str) -> tuple[float, float]:
    """Smallest step between values, and values per step that are all but equal.

    CPU and disk: the largest of the usual steps of which nearly all values are multiples. Memory, whose steps are a
    share of an odd size: the usual distance of neighbours.
    """
    if metric != "mem_pct":
        scale, tolerance = (1.0, 2e-4) if metric == "cpu_pct" else (1 / 1024, 2e-5)  # percent, KB/s
        usual = values[values <= np.quantile(values, 0.9)]
        for parts in (5, 7.5, 10, 15, 20, 22.5, 24, 30, 40, 45, 48, 60, 80, 90, 120, 160, 180, 240):
            quantum = scale / parts
            if (np.abs(usual - np.rint(usual / quantum) * quantum) < tolerance).mean() > 0.97:
                return quantum, 1.0
        return scale / 480, 1.0
    digits = 3
    levels = np.unique(np.round(values[values <= np.quantile(values, 0.9)], digits))
    levels = levels[np.concatenate([[True], np.diff(levels) > 2.5 * 10.0**-digits])]
    if len(levels) < 4:
        return 10.0**-digits, 1.0
    gaps, counts = np.unique(np.round(np.diff(levels), digits), return_counts=True)
    usual = float(gaps[np.argmax(counts)])
    near = np.diff(levels)[np.abs(np.diff(levels) - usual) < 1.5 * 10.0**-digits]
    wobble = len(np.unique(values)) / len(np.unique(np.round(values, digits)))
    return float(near.mean()), float(np.clip(wobble, 1, 8))


@dataclass
class Measured:
    """What is measured of one machine, real or made up."""

    quantiles: dict[str, np.ndarray]
    daily: dict[str, float]
    hourly: dict[str, float]
    beat: dict[str, np.ndarray]
    remembered: dict[str, np.ndarray]  # autocorrelation of the rest at LAGS
    of_changes: dict[tuple[str, str], float]  # correlation of two metrics' changes from step to step
    of_rests: dict[tuple[str, str], float]  # and of what follows neither clock
    peak: dict[str, float]

    def moved(self, real: Measured, made: Measured, share: float) -> Measured:
        """Targets moved by what the machine made from them lacks of the real one."""

        def corrected(name: str) -> dict[Any, Any]:
            target, wanted, got = getattr(self, name), getattr(real, name), getattr(made, name)
            return {key: target[key] + share * (wanted[key] - got[key]) for key in target}

        moved = {name: corrected(name) for name in ("daily", "hourly", "remembered", "of_changes", "of_rests")}
        # CPU and disks stand still and leap: their autocorrelation is that of the leaps; following it spoils the rest.
        for metric in ("cpu_pct", "disk_io_mb_s"):
            moved["remembered"][metric] = real.remembered[metric]
        return replace(self, **moved)


def measure(values: dict[str, np.ndarray], hour: np.ndarray, weekday: np.ndarray) -> Measured:
    """Measure one machine on the regular grid; `hour` counts steps of the day."""
    found = Measured({}, {}, {}, {}, {}, {}, {}, {})
    rests = {}
    for metric in METRICS:
        there = np.isfinite(values[metric])
        found.quantiles[metric] = np.quantile(values[metric][there], ndtr(np.array(KNOTS)))
        scores = scores_of(values[metric])
        still = float(np.nanvar(scores)) < 1e-6
        hourly, beat = share_of(scores, np.arange(len(hour)) % 12)
        rest = scores - beat
        daily, rhythm = share_of(rest, hour // 6)
        rest = rest - rhythm
        _, week = share_of(rest, (weekday >= 5) * 24 + hour // 12)
        rest = rest - week
        curve = np.bincount(hour, np.nan_to_num(rhythm), minlength=DAY)
        found.peak[metric] = float(np.argmax(np.convolve(np.tile(curve, 3), np.ones(12), "same")[DAY : 2 * DAY]) / 12)
        found.daily[metric], found.hourly[metric] = daily, hourly
        found.beat[metric] = beat[:12] if hourly > 0.002 else np.zeros(12)
        nothing = still or np.nanvar(rest) < 1e-9
        found.remembered[metric] = (LAGS == 0) * 1.0 if nothing else np.nan_to_num(autocorrelation(rest, LAGS))
        rests[metric] = np.zeros(len(rest)) if nothing else rest
    for one, other in PAIRS:
        found.of_changes[one, other] = correlation(np.diff(rests[one]), np.diff(rests[other]))
        found.of_rests[one, other] = correlation(rests[one], rests[other])
    return found


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation where both are there; 0 where one stands still."""
    both = np.isfinite(one) & np.isfinite(other)
    if one[both].std() < 1e-6 or other[both].std() < 1e-6:
        return 0.0
    return float(np.corrcoef(one[both], other[both])[0, 1])


def facts_of(targets: Measured, grains: dict[str, tuple[float, float]]) -> dict[str, dict[str, Any]]:
    """What a machine must be made of to be measured so."""
    basis = np.array([noise_correlations(int(lag)) for lag in LAGS])
    facts: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        weights, _ = nnls(basis * IMPORTANCE[:, None], targets.remembered[metric] * IMPORTANCE)
        beat = targets.beat[metric]
        facts[metric] = {
            "quantiles": targets.quantiles[metric],
            "quantum": grains[metric][0],
            "wobble": grains[metric][1],
            "daily": float(np.clip(targets.daily[metric], 0, 0.9)),
            "hourly": float(np.clip(targets.hourly[metric], 0, 0.9)),
            "beat": beat / max(float(beat.std()), 1e-6),
            "weights": weights / max(weights.sum(), 1e-9) if weights.sum() > 0 else np.array([1.0, 0, 0, 0, 0, 0]),
            "together": [0.0, 0.0],
            "memory_and_disk": [0.0, 0.0],
            "peak": targets.peak[metric],
        }
    for other in METRICS[1:]:
        facts[other]["together"] = together(targets, facts, "cpu_pct", other, [0.0, 0.0])
    through_cpu = np.multiply(facts["mem_pct"]["together"], facts["disk_io_mb_s"]["together"]).tolist()
    facts["disk_io_mb_s"]["memory_and_disk"] = together(targets, facts, "mem_pct", "disk_io_mb_s", through_cpu)
    return facts


def together(
    targets: Measured, facts: dict[str, dict[str, Any]], one: str, other: str, known: list[float]
) -> list[float]:
    """Correlation of the quick noise (the first `QUICK_NOISES`) of two metrics, and of the slow (level, era).

    `known` is what they have in common through CPU; what is told is what they share beside it. The quick part shows in
    the changes from step to step, the slow part in what the quick one does not explain of the rest.
    """
    weights, others = np.array(facts[one]["weights"]), np.array(facts[other]["weights"])
    joint = np.sqrt(weights * others)
    change = 1 - np.array(noise_correlations(1))  # half the variance of a step's change, by kind
    possible = (joint * change)[:QUICK_NOISES].sum() / np.sqrt((weights * change).sum() * (others * change).sum())
    quick = targets.of_changes[one, other] / max(possible, 0.1) - known[0]
    quick = np.clip(quick / max(1 - known[0], 0.1), 0, 1)
    in_quick = (quick * (1 - known[0]) + known[0]) * joint[:QUICK_NOISES].sum()
    slow = (targets.of_rests[one, other] - in_quick) / max(joint[QUICK_NOISES:].sum(), 0.1) - known[1]
    return [float(quick), float(np.clip(slow / max(1 - known[1], 0.1), 0, 1))]


def archetypes_of(machines: list[dict[str, dict[str, Any]]]) -> Archetypes:
    """The same as the generator takes it."""

    def facts(name: str) -> np.ndarray:
        return np.array([[machine[metric][name] for metric in METRICS] for machine in machines], np.float32)

    return Archetypes(**{name: facts(name) for name in Archetypes.__dataclass_fields__})


def made_from(machines: list[dict[str, dict[str, Any]]], profiles: list[str], first: date, days: int, seed: int) -> Any:
    """A month of made-up machines, one for each real one: metric → (machines, steps)."""
    nobody = np.zeros(len(machines), np.bool_)
    load = Load(profiles, archetypes_of(machines), nobody, np.random.default_rng(seed))
    lived = [load.day(first + timedelta(days=number), np.random.default_rng([seed, number])) for number in range(days)]
    return {
        "cpu_pct": np.concatenate([day.cpu for day in lived], axis=1).astype(np.float64),
        "mem_pct": np.concatenate([day.memory for day in lived], axis=1).astype(np.float64),
        "disk_io_mb_s": np.concatenate([day.disk for day in lived], axis=1).astype(np.float64),
    }


def calibrate(
    real: list[Measured], grains: list[dict[str, tuple[float, float]]], profiles: list[str], first: date, days: int
) -> list[dict[str, dict[str, Any]]]:
    """Facts from which the generator makes machines that measure as the real ones do.

    Quantiles bend every correlation, so what goes in is not what is measured: the machines are made, measured, and
    corrected by what they lack, some times over.
    """
    steps = np.arange(days * DAY)
    hour, weekday = steps % DAY, (steps // DAY + first.weekday()) % 7
    targets = list(real)
    for turn in range(TURNS):
        machines = [facts_of(target, grain) for target, grain in zip(targets, grains, strict=True)]
        made = made_from(machines, profiles, first, days, seed=turn)
        lacks = []
        for place, target in enumerate(targets):
            got = measure({metric: made[metric][place] for metric in METRICS}, hour, weekday)
            lacks.append([np.abs(real[place].remembered[m][1] - got.remembered[m][1]) for m in METRICS])
            targets[place] = target.moved(real[place], got, 0.7)
        print(f"turn {turn}: the next step's autocorrelation differs by {np.median(lacks, axis=0).round(3)} (median)")
    return [facts_of(target, grain) for target, grain in zip(targets, grains, strict=True)]


def give_to_profiles(machines: list[dict[str, Any]]) -> list[str]:
    """Profile of each machine: as alike as the proportions of the default fleet allow (an assignment problem)."""

    def rank(values: list[float]) -> np.ndarray:
        return rankdata(values) / len(values)

    def fact(metric: str, name: str) -> list[float]:
        return [machine[metric][name] for machine in machines]

    def quantile(metric: str, place: int) -> list[float]:
        return [machine[metric]["quantiles"][place] for machine in machines]

    def around(metric: str, low: float, high: float) -> np.ndarray:
        return np.array([low <= machine[metric]["peak"] < high for machine in machines], float)

    cpu, daily = rank(quantile("cpu_pct", 9)), rank(fact("cpu_pct", "daily"))
    plateau = rank([sum(machine["cpu_pct"]["weights"][QUICK_NOISES:]) for machine in machines])
    usual = rank(quantile("cpu_pct", 6))
    bursty = rank((np.array(quantile("cpu_pct", 12)) / (np.array(quantile("cpu_pct", 6)) + 0.5)).tolist())
    alike = {
        "web_api": daily * (0.4 + 0.6 * around("cpu_pct", 6, 17)) + 0.3 * rank(fact("cpu_pct", "daily")),
        "ml_compute": 0.9 * cpu + 0.5 * plateau,
        "database": 0.7 * rank(quantile("disk_io_mb_s", 6)) + 0.6 * rank(quantile("mem_pct", 6)),
        "data_ingest": 0.8 * rank(quantile("disk_io_mb_s", 11)) * (0.5 + 0.5 * (1 - around("disk_io_mb_s", 6, 18)))
        + 0.3 * rank(fact("disk_io_mb_s", "daily")),
        "risk_analytics": 0.6 * daily * (0.5 + 0.5 * around("cpu_pct", 13, 22)) + 0.4 * rank(quantile("cpu_pct", 10)),
        "conductor_mgmt": rank(fact("cpu_pct", "hourly")) + 0.2 * (1 - cpu),
        "generic": 1.2 * ((usual > 0.3) & (usual < 0.75)) + 0.9 * bursty - 0.4 * daily,
    }
    total, count = sum(DEFAULT_FLEET.values()), len(machines)
    slots = [profile for profile, share in DEFAULT_FLEET.items() for _ in range(-(-share * count // total))]
    cost = -np.array([alike[profile] for profile in slots]).T
    _, chosen = linear_sum_assignment(cost)
    return [slots[slot] for slot in chosen]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    if "TFT_REAL_DATA" not in os.environ:
        raise SystemExit("Set TFT_REAL_DATA to the folder that holds " + TRACE)
    with tempfile.TemporaryDirectory() as folder:
        import_files(Path(os.environ["TFT_REAL_DATA"]) / TRACE, load_preset("bitbrains"), folder)
        data = pd.read_parquet(Path(folder) / "server_metrics.parquet")
    data["timestamp"] = data["timestamp"].dt.floor("5min")
    grid = pd.date_range(data["timestamp"].min(), data["timestamp"].max(), freq="5min")
    hour, weekday = (grid.hour * 12 + grid.minute // 5).to_numpy(), grid.dayofweek.to_numpy()
    real, grains = [], []
    for _, rows in data.groupby("server_name", observed=True):
        frame = rows.drop_duplicates("timestamp").set_index("timestamp")[list(METRICS)].reindex(grid)
        if frame.notna().sum().min() < 20 * DAY:
            continue
        values = {metric: frame[metric].to_numpy(np.float64) for metric in METRICS}
        real.append(measure(values, hour, weekday))
        grains.append({metric: grain_of(values[metric][np.isfinite(values[metric])], metric) for metric in METRICS})
    profiles = give_to_profiles([facts_of(each, grain) for each, grain in zip(real, grains, strict=True)])
    machines = calibrate(real, grains, profiles, grid[0].date(), len(grid) // DAY)
    columns: dict[str, Any] = {"profile": pa.array(profiles)}
    for fact in Archetypes.__dataclass_fields__:
        numbers = np.array([[machine[metric][fact] for metric in METRICS] for machine in machines])
        digits = DIGITS.get(fact, 3)
        flat = [float(f"{number:.{digits}g}") for number in numbers.ravel()]
        columns[fact] = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), numbers[0].size)
    table = pa.table(columns).sort_by("profile").replace_schema_metadata({"source": SOURCE})
    pq.write_table(table, options.out, compression="zstd", compression_level=19)
    print(f"{len(machines)} machines, {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
