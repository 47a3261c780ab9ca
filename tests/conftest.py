"""Fixtures that all tests share: settings, a small fleet, and one real tiny model, trained once per session."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each of several workers has a core: threads that wait for each other would only spin. Before NumPy and torch load.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest

from config import Settings, load_settings
from contract_parquet import open_writer
from data_contract import PROFILE, SERVER_NAME, STATE, TIMESTAMP, TrainingError, profile_for_name

FLEET = ("ppdb001", "ppetl001", "ppgen001", "ppml0001", "ppweb001", "ppweb002")
FLEET_END = datetime(2026, 3, 4, tzinfo=timezone.utc)


def make_fleet(
    names: tuple[str, ...] = FLEET, hours: int = 72, end: datetime = FLEET_END, seed: int = 1
) -> pd.DataFrame:
    """Contract rows of a fleet with a daily rhythm; the last row of each server is one step before `end`."""
    rng = np.random.default_rng(seed)
    times = pd.date_range(end=end, periods=hours * 12 + 1, freq="5min")[:-1]
    day = np.sin(2 * np.pi * (times.hour + times.minute / 60) / 24)
    frames = []
    for number, name in enumerate(names):
        noise = rng.normal(size=(len(times), 4)).cumsum(axis=0)
        noise -= pd.DataFrame(noise).rolling(24, min_periods=1).mean().to_numpy()
        cpu = np.clip(35 + 5 * number + 20 * day + 3 * noise[:, 0], 0, 100)
        frames.append(
            pd.DataFrame(
                {
                    TIMESTAMP: times,
                    SERVER_NAME: name,
                    "cpu_pct": cpu,
                    "mem_pct": np.clip(50 + 4 * number + 5 * day + noise[:, 1], 0, 100),
                    "disk_io_mb_s": np.clip(20 + 10 * day + 2 * noise[:, 2], 0, None),
                    "latency_ms": np.clip(30 + 0.5 * cpu + 2 * noise[:, 3], 0, None),
                    STATE: np.where(cpu > 80, "heavy_load", "healthy"),
                    PROFILE: profile_for_name(name),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def write_fleet(path: Path, frame: pd.DataFrame) -> Path:
    """Write contract rows where a test wants them."""
    with open_writer(path) as writer:
        writer.write(frame)
    return path


@pytest.fixture(scope="session", autouse=True)
def _signals_reach_children() -> None:
    """A suite that was started in the background ignores SIGINT, under nohup SIGHUP, and so would what tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Settings of a network and a training that take seconds."""
    return load_settings(
        hidden_size=8,
        attention_heads=2,
        encoder_pieces="3x12,12x1",
        decoder_patch=12,
        batch_size=32,
        windows_per_epoch=256,
        validation_windows=64,
        learning_rate=0.01,
    )


@pytest.fixture(scope="session")
def fleet_frame() -> pd.DataFrame:
    """Three days of six servers as contract rows."""
    return make_fleet()


@pytest.fixture(scope="session")
def fleet_file(fleet_frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a contract Parquet file."""
    return write_fleet(tmp_path_factory.mktemp("fleet") / "server_metrics.parquet", fleet_frame)


@pytest.fixture(scope="session")
def tiny_model_dir(fleet_file: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model folder, trained on the fleet of `fleet_frame`. Do not change it: copy it first."""
    from tft_trainer import train

    return train(fleet_file, tmp_path_factory.mktemp("models"), settings, epochs=2)


@pytest.fixture
def begun(fleet_file: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with a run that ended after its first epoch, when its second state was to be kept."""
    from tft_trainer import train
    from training_runs import Run

    short = settings.model_copy(update={"windows_per_epoch": 64, "validation_windows": 32})
    save = Run.save
    saved: list[tuple[str, ...]] = []

    def save_once(self: Run, state: dict[str, Any], names: tuple[str, ...]) -> None:
        if saved:
            raise TrainingError("enough", why="", fix="")
        saved.append(names)
        save(self, state, names)

    with monkeypatch.context() as patched, pytest.raises(TrainingError, match="enough"):
        patched.setattr(Run, "save", save_once)
        train(fleet_file, tmp_path, short, epochs=2)
    return tmp_path
