"""Tests of trainings in several processes: real ones, with torchrun and without, stopped, killed and restarted."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from conftest import FLEET_END
from test_training_resume import HERE, SHAPE, run_training, the_run, weights_of

from config import Settings
from data_contract import TrainingError
from model_folder import load_model
from tft_trainer import train
from training_checkpoints import load_checkpoint
from training_options import Hardware, Restrictions, duration_text, seconds_of
from training_processes import Processes, launched

TWO = ("--devices", "2", "--accelerator", "cpu", "--epochs", "2")


def run_torchrun(
    data: Path, models: Path, settings: Settings, *options: str, at: tuple[str, ...] = (), restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    told = {f"TFT_{key.upper()}": str(getattr(settings, key)) for key in (*SHAPE, "learning_rate", "dropout")}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [f"--max-restarts={restarts}", str(HERE / "stopped_training.py"), *at, "train"]
    return subprocess.run(
        [*launcher, *script, "--data", str(data), "--models-dir", str(models), "--accelerator", "cpu", *options],
        cwd=HERE.parent,
        env=os.environ | told | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def in_two(fleet_file: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that two processes have made together."""
    models = tmp_path_factory.mktemp("two")
    done = run_training(fleet_file, models, settings, *TWO)
    assert done.returncode == 0, done.stderr
    for noise in ("Traceback", "Warning", "WARN", "[W", "distributed_backend"):
        assert noise not in done.stderr, done.stderr
    assert "2 processes" in done.stderr and done.stderr.count("epoch 1/2") == 1
    return (models / "latest").resolve()


# ------------------------------------------------------------------------------------------------------------- together
@pytest.mark.slow
def test_torchrun_gives_the_same_losses_as_one_process(fleet_file: Path, settings: Settings, tmp_path: Path) -> None:
    still = settings.model_copy(update={"dropout": 0.0})  # dropout is drawn by each process
    unseen = Restrictions(FLEET_END - timedelta(hours=4), 0.2)  # by all of them
    alone = train(fleet_file, tmp_path / "one", still, epochs=2, hardware=Hardware("cpu"), restrictions=unseen)
    options = ("--until", "2026-03-03T20:00", "--hold-out-servers", "0.2", "--strategy", "ddp")
    done = run_torchrun(fleet_file, tmp_path / "two", still, "--epochs", "2", *options)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    one, two = (load_model(folder).info for folder in (alone, tmp_path / "two" / "latest"))
    for key in ("train_loss", "val_loss", "learning_rate"):
        assert [each[key] for each in two["losses"]] == pytest.approx([each[key] for each in one["losses"]], rel=1e-4)
    assert (one["hardware"]["processes"], two["hardware"]["processes"]) == (1, 2)
    assert one["data"] == two["data"] and len(one["data"]["unseen"]["held_out_servers"]) == 1


@pytest.mark.slow
def test_an_error_is_told_once_and_ends_all_processes(settings: Settings, tmp_path: Path) -> None:
    done = run_training(tmp_path / "absent.parquet", tmp_path, settings, *TWO)
    assert done.returncode == 1
    assert done.stderr.count("no Parquet data") == 1 and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "runs").exists()


# -------------------------------------------------------------------------------------------------------------- stopped
@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_batch_and_resume_goes_on_to_the_bit(
    fleet_file: Path, in_two: Path, settings: Settings, tmp_path: Path
) -> None:
    stopped = run_training(fleet_file, tmp_path, settings, *TWO, at=("training:1:2:SIGTERM:1",))
    assert stopped.returncode == 1 and "Traceback" not in stopped.stderr, stopped.stderr
    assert stopped.stderr.count("in epoch 2 of 2, after 3 batches") == 1
    assert load_checkpoint(the_run(tmp_path) / "last.safetensors")["progress"]["batch"] == 3
    resumed = run_training(fleet_file, tmp_path, settings, *TWO, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert weights_of(tmp_path / "latest") == weights_of(in_two)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_an_error_and_resume_goes_on(
    fleet_file: Path, in_two: Path, settings: Settings, tmp_path: Path
) -> None:
    killed = run_training(fleet_file, tmp_path, settings, *TWO, at=("training:1:2:SIGKILL:1",))
    assert killed.returncode == 1 and "Traceback" not in killed.stderr, killed.stderr
    assert "Another process of this training has ended" in killed.stderr and "--resume" in killed.stderr
    resumed = run_training(fleet_file, tmp_path, settings, *TWO, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert weights_of(tmp_path / "latest") == weights_of(in_two)


@pytest.mark.slow
def test_torchrun_restarts_a_killed_training_which_goes_on_by_itself(
    fleet_file: Path, in_two: Path, settings: Settings, tmp_path: Path
) -> None:
    done = run_torchrun(fleet_file, tmp_path, settings, "--epochs", "2", at=("training:1:2:SIGKILL:1",), restarts=1)
    assert done.returncode == 0, done.stderr
    assert "Going on in epoch 2, batch 1" in done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert weights_of(tmp_path / "latest") == weights_of(in_two)


# ------------------------------------------------------------------------------------------------------------- hardware
@pytest.mark.parametrize(
    ("hardware", "told"),
    [
        (Hardware(accelerator="cuda"), "--accelerator cuda cannot be used"),
        (Hardware(accelerator="gpu"), "--accelerator gpu cannot be used"),
        (Hardware(accelerator="cpu", precision="16"), "--precision 16 cannot be used on cpu"),
        (Hardware(accelerator="cpu", devices=2), "torchrun --nproc_per_node 2"),
        (Hardware(accelerator="cpu", strategy="ddp"), "--strategy ddp is for several processes"),
    ],
)
def test_hardware_that_is_not_there_is_refused_before_anything_is_written(
    hardware: Hardware, told: str, fleet_file: Path, settings: Settings, tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "cpu" not in told and hardware.devices is None:
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingError) as caught:
        train(fleet_file, tmp_path / "models", settings, hardware=hardware)
    assert told in str(caught.value)
    assert not (tmp_path / "models").exists()


def test_mixed_precision_learns_on_a_cpu(fleet_file: Path, settings: Settings, tmp_path: Path) -> None:
    folder = train(fleet_file, tmp_path, settings, epochs=1, hardware=Hardware("cpu", precision="bf16"))
    model = load_model(folder)
    assert model.info["hardware"]["precision"] == "bf16-mixed"
    whole = load_model(train(fleet_file, tmp_path / "32", settings, epochs=1, hardware=Hardware("cpu"))).info
    assert model.info["training_loss"] != whole["training_loss"]  # 8 bits of mantissa leave their mark
    assert model.info["training_loss"] == pytest.approx(whole["training_loss"], rel=0.02)
    assert all(str(weight.dtype) == "torch.float32" for weight in model.network.state_dict().values())


def test_devices_that_contradict_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**there, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrainingError, match="--devices 3 contradicts torchrun, which started 2"):
        Processes(Hardware("cpu", devices=3))


def test_a_process_that_cannot_join_says_why_itself(fleet_file: Path, settings: Settings, tmp_path: Path) -> None:
    second = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = run_training(fleet_file, tmp_path, settings, "--accelerator", "cpu", "--precision", "16", **second)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Error in process 1: --precision 16 cannot be used on cpu" in done.stderr


def test_a_rank_without_a_launcher_ends_no_interpreter(
    fleet_file: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(TrainingError, match="--precision 16"):
        train(fleet_file, tmp_path, settings, hardware=Hardware("cpu", precision="16"))


def test_more_processes_than_cores_or_gpus_are_refused_before_any_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with (
        pytest.raises(TrainingError, match="1000 processes were asked for, and this machine has"),
        launched(Hardware("cpu", devices=1000)),
    ):
        pass
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with (
        pytest.raises(TrainingError, match="2 processes on this machine need as many GPUs, and torch finds 1"),
        launched(Hardware("cuda", devices=2, precision="32")),
    ):
        pass


def test_where_a_process_cannot_be_started_those_that_were_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = subprocess.Popen, []

    def start_one(command: list[str], **more: object) -> subprocess.Popen[bytes]:
        if started:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(start([sys.executable, "-c", "import time; time.sleep(600)"], **more))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start_one)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with (
        pytest.raises(TrainingError, match="Process 2 of 3 cannot be started: Resource temp"),
        launched(Hardware("cpu", devices=3)),
    ):
        pass
    assert started[0].returncode is not None
    assert "RANK" not in os.environ


def test_times_are_read_as_people_write_them() -> None:
    assert [seconds_of(text) for text in ("90s", "10m", "2h", "1h30m", "0.5")] == [90, 600, 7200, 5400, 30]
    for wrong in ("", "0s", "5x", "30m1h", "-3m", "inf", "1e9"):
        with pytest.raises(ValueError, match="no time such as"):
            seconds_of(wrong)
    assert [duration_text(each) for each in (0.2, 89, 100, 5399, 9000)] == [
        "1 s",
        "89 s",
        "2 min",
        "1 h 30 min",
        "2 h 30 min",
    ]


@pytest.mark.parametrize(
    "options",
    [("--max-time", "soon"), ("--devices", "0"), ("--devices", "10240"), ("--devices", "many"), ("--precision", "8")],
)
def test_wrong_options_are_usage_errors(options: tuple[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "main.py", "train", *options], cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and options[0] in done.stderr
