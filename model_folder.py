"""How a trained model is kept: four files, JSON and safetensors, nothing pickled.

A folder is written aside and renamed when complete; `models/latest` moves last, atomically. Loading checks everything
that the contract asks for, and then every key, shape, dtype and value of the weights.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common_utils import atomic_path, move_link, remove_tree, sha256_of_file, write_json
from data_contract import (
    CONTRACT_VERSION,
    METRIC_COLUMNS,
    MODEL_CONFIG,
    MODEL_VERSION,
    MODEL_WEIGHTS,
    SERVER_MAPPING,
    TRAINING_INFO,
    VALID_PROFILES,
    VALID_STATES,
    ModelFolderError,
    TrainingError,
    shorten,
)
from data_validator import DataValidator
from model_inputs import input_names
from server_encoder import ServerEncoder
from tft_features import FeatureSpec
from tft_model import FastTemporalFusionTransformer, NetworkConfig, build_network

LATEST = "latest"


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory."""

    name: str
    network: FastTemporalFusionTransformer
    spec: FeatureSpec
    info: dict[str, Any]
    encoder: ServerEncoder


def save_model(
    models_dir: Path,
    name: str,
    weights: dict[str, Tensor],
    spec: FeatureSpec,
    network: NetworkConfig,
    info: dict[str, Any],
    encoder: ServerEncoder,
    *,
    make_latest: bool = True,
) -> Path:
    """Write a model folder and, unless it is to be kept aside, point `latest` to it.

    Parameters
    ----------
    info : dict
        What is worth knowing of the training; versions, states, profiles and the weights' checksum are added.

    Raises
    ------
    TrainingError
        If a file cannot be written (disk full, no permission); nothing is left behind and `latest` stays.
    """
    target, partial = models_dir / name, models_dir / f".{name}.partial"
    try:
        partial.mkdir(parents=True)
        with atomic_path(partial / MODEL_WEIGHTS) as file:
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}, file)
        write_json(
            partial / MODEL_CONFIG,
            {
                "contract_version": CONTRACT_VERSION,
                "model_version": MODEL_VERSION,
                "network": network.as_dict(),
                "features": {**spec.as_dict(), **input_names()},
            },
        )
        write_json(
            partial / TRAINING_INFO,
            {
                "contract_version": CONTRACT_VERSION,
                "model_version": MODEL_VERSION,
                "model_name": name,
                "states": list(VALID_STATES),
                "profiles": list(VALID_PROFILES),
                "metrics": list(METRIC_COLUMNS),
                "weights_sha256": sha256_of_file(partial / MODEL_WEIGHTS),
                **info,
            },
        )
        encoder.save_mapping(partial / SERVER_MAPPING)
        load_model(partial)  # what cannot be loaded again is no model
        partial.rename(target)
        if make_latest:
            move_link(models_dir / LATEST, target)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"The model could not be saved in {models_dir}: {getattr(error, 'strerror', None) or error}.",
            why="A model folder is complete or not there at all; `latest` still points to the model before.",
            fix="Free some space or choose another --models-dir, then `python main.py train --resume`.",
        ) from error
    finally:
        remove_tree(partial)
    return target


def load_model(model_dir: str | os.PathLike[str]) -> LoadedModel:
    """Read and check a model folder.

    Raises
    ------
    ModelFolderError
        If a file is missing or damaged, if the folder was made for another contract or by another feature pipeline, or
        if the weights do not fit the network to the last key, shape and dtype.
    """
    folder = Path(model_dir)
    DataValidator(strict=True).validate_model_compatibility(folder)
    folder = folder.resolve()  # `latest` may move while the files are read
    try:
        config = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
        info = json.loads((folder / TRAINING_INFO).read_text(encoding="utf-8"))
        spec = FeatureSpec.from_dict(config["features"])
        network_config = NetworkConfig.from_dict(config["network"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(
            folder, [f"{MODEL_CONFIG} does not describe a network ({type(error).__name__}: {error})"]
        ) from error
    try:
        network = build_network(spec, network_config)
        weights = load_file(folder / MODEL_WEIGHTS)
    except (SafetensorError, OSError, ValueError, RuntimeError, AssertionError) as error:
        raise _unusable(folder, [f"{MODEL_WEIGHTS} or {MODEL_CONFIG} cannot be used ({error})"]) from error
    faults = weight_faults(network.state_dict(), weights)
    if faults:
        raise _unusable(folder, faults)
    network.load_state_dict(weights)
    network.eval()
    return LoadedModel(info["model_name"], network, spec, info, ServerEncoder(folder / SERVER_MAPPING))


def weight_faults(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """What keeps weights from being those of a network: keys, shapes, dtypes, values that are not finite."""
    faults = []
    missing, foreign = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        faults.append(f"weights are missing: {shorten(missing)}")
    if foreign:
        faults.append(f"weights that the network lacks: {shorten(foreign)}")
    for key in sorted(expected.keys() & found.keys()):
        if found[key].shape != expected[key].shape or found[key].dtype != expected[key].dtype:
            faults.append(
                f"{key} is {tuple(found[key].shape)} {found[key].dtype}, "
                f"not {tuple(expected[key].shape)} {expected[key].dtype}"
            )
        elif not bool(torch.isfinite(found[key]).all()):
            faults.append(f"{key} holds values that are not finite")
    return faults


def _unusable(folder: Path, faults: list[str]) -> ModelFolderError:
    return ModelFolderError(
        f"The model folder {folder.name} cannot be used: {'; '.join(faults[:5])}.",
        why="A model that does not fit its description would forecast nonsense.",
        fix="Train a new one with `python main.py train`, or restore the whole folder from a backup.",
    )
