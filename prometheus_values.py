"""What values of a Prometheus are in the contract: units, clipped percentages, and the role of a server.

By a mapping of the importer; for what comes into a running daemon, sent or asked for. Knows nothing of either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from data_contract import GENERIC_PROFILE, VALID_PROFILES, profile_for_name
from import_cells import IDLE_ROUNDING
from import_mapping import CLIP_UP_TO, DEFAULT_UNITS, UNITS
from prometheus_mapping import PrometheusMapping


class MappedValues:
    """Contract values by a mapping.

    Parameters
    ----------
    mapping : PrometheusMapping

    Attributes
    ----------
    units : dict
        By metric, what its values are multiplied by, and what is added then.
    clip : dict
        By metric, the percentage up to which what is above 100 is taken for 100; 0 where nothing is.
    """

    def __init__(self, mapping: PrometheusMapping) -> None:
        metrics = mapping.prometheus.metrics
        self.units = {name: UNITS[name][metric.unit or DEFAULT_UNITS[name]] for name, metric in metrics.items()}
        self.clip = {name: metric.clip_up_to or CLIP_UP_TO.get(name, 0.0) for name, metric in metrics.items()}
        self._mapping = mapping
        self._rules = [(re.compile(rule.pattern), rule.profile) for rule in mapping.profile.rules]

    def of(self, metric: str, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Values of a metric in the contract's unit; what is NaN stays it."""
        factor, offset = self.units[metric]
        converted = factor * values.astype(np.float64) + offset
        converted[(converted > 100.0) & (converted <= self.clip[metric])] = 100.0
        if factor < 0:  # idle and waiting time may add up to a bit more than 100 %
            converted[(converted < 0) & (converted >= -IDLE_ROUNDING)] = 0.0
        return converted

    def stated_profile(self, server: str, labels: Mapping[str, str]) -> str | None:
        """Profile by a label or by the mapping's rules; None where they say nothing."""
        for label in self._mapping.profile_labels:
            if value := labels.get(label):
                named = self._mapping.profile.values.get(value, value)
                if named in VALID_PROFILES:
                    return named
                break
        return next((profile for pattern, profile in self._rules if pattern.search(server)), None)

    def usual_profile(self, server: str) -> str:
        """Profile of a new server of which nothing states one: by its name, or the mapping's default."""
        named = profile_for_name(server)
        return self._mapping.profile.default if named == GENERIC_PROFILE else named


def _self_check() -> None:
    from prometheus_mapping import load_prometheus_preset

    values = MappedValues(load_prometheus_preset("node_exporter"))
    assert values.usual_profile("ppdb001") == "database" and set(values.units) == set(values.clip)
    assert np.isnan(values.of("cpu_pct", np.array([np.nan]))).all()
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
