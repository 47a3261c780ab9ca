"""The model changes while many ask: nobody is refused, and no answer is of two models.

Four changes in the suite; `DRILL_SWAPS=20` makes it twenty.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from conftest import FLEET, make_fleet
from safetensors.torch import load_file, save_file
from test_daemon_process import NOW, Process, daemon, json_rows, wait_for

from data_contract import MODEL_CONFIG, MODEL_FILES, MODEL_WEIGHTS, SERVER_MAPPING, TRAINING_INFO

SWAPS = int(os.environ.get("DRILL_SWAPS", "4"))
NAME = FLEET[0]


def copy_model(source: Path, target: Path) -> None:
    shutil.copytree(source, target)
    info = json.loads((target / TRAINING_INFO).read_text())
    (target / TRAINING_INFO).write_text(json.dumps({**info, "model_name": target.name}))


def other_model(source: Path, target: Path) -> None:
    """A model that forecasts otherwise: every weight of its last layer a tenth larger."""
    copy_model(source, target)
    weights = load_file(target / MODEL_WEIGHTS)
    changed = [name for name in weights if "output_layer" in name]
    assert changed
    for name in changed:
        weights[name] = weights[name] * 1.1
    save_file(weights, target / MODEL_WEIGHTS)
    info = json.loads((target / TRAINING_INFO).read_text())
    info["weights_sha256"] = hashlib.sha256((target / MODEL_WEIGHTS).read_bytes()).hexdigest()
    (target / TRAINING_INFO).write_text(json.dumps(info))


def point(latest: Path, folder: Path) -> None:
    """Move the link in one step, as a training does."""
    aside = latest.with_name("aside")
    aside.symlink_to(folder.name)
    aside.replace(latest)


@pytest.fixture(scope="module")
def models(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("swapped")
    folders = [folder / f"tft_model_2026010{day}_000000" for day in (1, 2)]
    copy_model(tiny_model_dir, folders[0])
    other_model(tiny_model_dir, folders[1])
    (folder / "latest").symlink_to(folders[0].name)
    return folder / "latest", folders


@pytest.fixture(scope="module")
def process(models: tuple[Path, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with daemon(tmp_path_factory.mktemp("daemon"), models[0], TFT_MAX_WEBSOCKETS="10") as process:
        process.post(json_rows(make_fleet(hours=36, end=NOW)))
        wait_for(lambda: process.get("/predictions/current")["count"] == len(FLEET))
        yield process


def forecast_of(body: dict[str, Any]) -> Any:
    return next(record for record in body["predictions"] if record["server_name"] == NAME)["quantiles"]


class Asker(threading.Thread):
    """Asks one route until it is told to stop, and remembers what was wrong."""

    def __init__(self, url: str, ask: Callable[[httpx2.Client], str | None]) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.count = 0
        self._url, self._ask = url, ask
        self.stopping = threading.Event()

    def run(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=60, trust_env=False) as client:
            while not self.stopping.is_set():
                try:
                    fault = self._ask(client)
                except Exception as error:  # noqa: BLE001 - every failure of a request counts
                    fault = f"{type(error).__name__}: {error}"
                self.count += 1
                if fault:
                    self.faults.append(fault)
                time.sleep(0.005)


def test_nobody_is_refused_and_no_answer_is_of_two_models(process: Process, models: tuple[Path, list[Path]]) -> None:
    latest, folders = models
    said: dict[str, Any] = {}
    for folder in folders[::-1]:
        point(latest, folder)
        wait_for(lambda name=folder.name: process.get("/predictions/current")["model"]["name"] == name)
        said[folder.name] = forecast_of(process.get("/predictions/current"))
    assert said[folders[0].name] != said[folders[1].name]

    def fleet(client: httpx2.Client) -> str | None:
        answer = client.get("/predictions/current")
        if answer.status_code != 200:
            return answer.text
        body = answer.json()
        return None if forecast_of(body) == said[body["model"]["name"]] else "a forecast of the other model"

    def one(client: httpx2.Client) -> str | None:
        answer = client.get(f"/predictions/{NAME}")
        if answer.status_code != 200:
            return answer.text
        body = answer.json()
        return None if body["quantiles"] == said[body["model"]["name"]] else "a forecast of the other model"

    def page(client: httpx2.Client) -> str | None:
        answer = client.get("/snapshot", params={"parts": "current,alerts,prediction", "server": NAME})
        if answer.status_code != 200 or answer.json()["problems"]:
            return answer.text
        parts = answer.json()["parts"]
        names = {parts[part]["model"]["name"] for part in parts} | {answer.json()["model"]["name"]}
        same = forecast_of(parts["current"]) == parts["prediction"]["quantiles"]
        return None if len(names) == 1 and same else f"parts of {names}"

    askers = [Asker(process.url, ask) for ask in (fleet, one, page)]
    for asker in askers:
        asker.start()
    try:
        for number in range(SWAPS):
            name = folders[(number + 1) % 2].name
            point(latest, folders[(number + 1) % 2])
            wait_for(lambda name=name: process.get("/status")["model"]["name"] == name)
            time.sleep(0.1)
    finally:
        for asker in askers:
            asker.stopping.set()
        for asker in askers:
            asker.join()
    assert all(asker.count > SWAPS for asker in askers)
    assert [fault for asker in askers for fault in asker.faults] == []


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def flip(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-len(content) // 3] ^= 0x10
        (folder / name).write_bytes(bytes(content))

    return damage


def lose(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def claim(name: str, key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        assert key in content
        content[key] = value
        (folder / name).write_text(json.dumps(content))

    return damage


def foreign(folder: Path) -> None:
    (folder / MODEL_WEIGHTS).write_bytes(b"\x80\x04\x95pickle, perhaps" * 99)


def reweigh(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Other weights, with the checksum that belongs to them."""

    def damage(folder: Path) -> None:
        weights = load_file(folder / MODEL_WEIGHTS)
        change(weights)
        save_file(weights, folder / MODEL_WEIGHTS)
        sign(folder)

    return damage


def sign(folder: Path) -> None:
    info = json.loads((folder / TRAINING_INFO).read_text())
    info["weights_sha256"] = hashlib.sha256((folder / MODEL_WEIGHTS).read_bytes()).hexdigest()
    (folder / TRAINING_INFO).write_text(json.dumps(info))


def spoil(weights: dict[str, Any]) -> None:
    key = next(key for key, tensor in sorted(weights.items()) if tensor.is_floating_point())
    weights[key] = weights[key] * float("nan")


def lose_one(weights: dict[str, Any]) -> None:
    del weights[min(weights)]


def foreign_but_signed(folder: Path) -> None:
    foreign(folder)
    sign(folder)


def in_place_of_a_file(folder: Path) -> None:
    (folder / MODEL_WEIGHTS).unlink()
    (folder / MODEL_WEIGHTS).mkdir()


def in_place_of_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"cut {name}": cut(name) for name in MODEL_FILES},
    **{f"lost {name}": lose(name) for name in MODEL_FILES},
    f"bit of {MODEL_WEIGHTS}": flip(MODEL_WEIGHTS),
    "foreign weights": foreign,
    "foreign weights with their checksum": foreign_but_signed,
    "weights of another network": reweigh(lose_one),
    "weights that are not finite": reweigh(spoil),
    "a folder in place of a file": in_place_of_a_file,
    "a file in place of the folder": in_place_of_the_folder,
    "gone": shutil.rmtree,
    "another contract": claim(TRAINING_INFO, "contract_version", "9.0.0"),
    "another generation": claim(MODEL_CONFIG, "model_version", "99.0.0"),
    "another hash": claim(TRAINING_INFO, "weights_sha256", "0" * 64),
    "other states": claim(TRAINING_INFO, "states", ["fine"]),
    "no object": lambda folder: (folder / MODEL_CONFIG).write_text("[]"),
    "no servers": lambda folder: (folder / SERVER_MAPPING).write_text("{}"),
    "everything": lambda folder: [path.unlink() for path in folder.iterdir()] and None,
}


def test_a_damaged_folder_is_refused_and_the_old_model_stays(process: Process, models: tuple[Path, list[Path]]) -> None:
    latest, folders = models
    point(latest, folders[0])
    wait_for(lambda: process.get("/status")["model"]["name"] == folders[0].name)
    before = forecast_of(process.get("/predictions/current"))
    for number, (kind, damage) in enumerate(DAMAGES.items()):
        folder = latest.with_name(f"tft_model_20260201_0000{number:02}")
        shutil.copytree(folders[1], folder)
        damage(folder)
        point(latest, folder)
        answer = process.client.post("/models/reload")
        assert answer.status_code == 409, (kind, answer.text)
        assert folders[0].name in answer.json()["what"] and str(latest.parent) not in answer.text
        body = process.get("/predictions/current")
        assert (body["model"]["name"], forecast_of(body)) == (folders[0].name, before), kind
    point(latest, latest)  # to itself
    assert process.client.post("/models/reload").status_code == 409
    # What serves lies in memory: its own folder may be cut in place
    weights = folders[0] / MODEL_WEIGHTS
    whole = weights.read_bytes()
    with weights.open("r+b") as file:
        file.truncate(len(whole) // 2)
    point(latest, folders[0])
    assert process.client.post("/models/reload").status_code == 409
    assert forecast_of(process.get("/predictions/current")) == before
    weights.write_bytes(whole)
    point(latest, folders[1])
    assert process.client.post("/models/reload").json()["served"]["name"] == folders[1].name
    assert "Traceback" not in process.log()
