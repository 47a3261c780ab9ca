"""How a trained model is kept: four files, JSON and safetensors, nothing pickled.

A folder is written aside and renamed when complete; `models/latest` moves last, atomically. Loading checks everything
that the contract asks for, and then every key, shape, dtype and value of the weights.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from breach_reader import PREFIX, BreachReader
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
from risk_calibration import RiskCalibration
from server_encoder import ServerEncoder
from tft_features import QUANTILES, FeatureSpec
from tft_model import NetworkConfig, ServedNetwork, served_network

LATEST = "latest"

_JSON_FILES = (MODEL_CONFIG, TRAINING_INFO, SERVER_MAPPING)
_MAX_JSON_MB = 256  # a mapping of a million servers is smaller
_MAX_HEADER_MB = 1.0  # names and shapes in the file of weights


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory.

    Attributes
    ----------
    name : str
    network : ServedNetwork
    spec : FeatureSpec
    info : dict
        Content of `training_info.json`.
    encoder : ServerEncoder
    calibration : RiskCalibration or None
        How its risk is to be read; folders made before there was one have none.
    """

    name: str
    network: ServedNetwork
    spec: FeatureSpec
    info: dict[str, Any]
    encoder: ServerEncoder
    calibration: RiskCalibration | None = None


def contract_of_models() -> dict[str, Any]:
    """Part of `training_info.json` that is the same in all models of this version."""
    return {
        "contract_version": CONTRACT_VERSION,
        "model_version": MODEL_VERSION,
        "states": list(VALID_STATES),
        "profiles": list(VALID_PROFILES),
        "metrics": list(METRIC_COLUMNS),
    }


def save_model(
    models_dir: Path,
    name: str,
    weights: dict[str, Tensor],
    spec: FeatureSpec,
    network: NetworkConfig,
    info: dict[str, Any],
    encoder: ServerEncoder,
    *,
    reader: BreachReader | None = None,
    make_latest: bool = True,
) -> Path:
    """Write a model folder and, unless it is to be kept aside, point `latest` to it.

    Parameters
    ----------
    info : dict
        What is worth knowing of the training; versions, states, profiles and the weights' checksum are added.
    reader : BreachReader, optional
        What the risk calibration in `info` was fitted for; it is kept with the weights.

    Raises
    ------
    TrainingError
        If a file cannot be written (disk full, no permission); nothing is left behind and `latest` stays.
    """
    target, partial = models_dir / name, models_dir / f".{name}.partial"
    try:
        partial.mkdir(parents=True)
        with atomic_path(partial / MODEL_WEIGHTS) as file:
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
            if reader is not None:
                tensors |= {key: torch.from_numpy(array).contiguous() for key, array in reader.arrays().items()}
            save_file(tensors, file)
        write_json(
            partial / MODEL_CONFIG,
            {
                "contract_version": CONTRACT_VERSION,
                "model_version": MODEL_VERSION,
                "network": network.as_dict(),
                "features": {**spec.as_dict(), **spec.layout.names()},
            },
        )
        write_json(
            partial / TRAINING_INFO,
            {
                **contract_of_models(),
                "model_name": name,
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
    if folder.is_dir():  # else it is told by the name that was given
        folder = folder.resolve()  # `latest` may move while the files are read
    huge = [
        f"{name} is larger than {_MAX_JSON_MB} MB" for name in _JSON_FILES if _is_larger(folder / name, _MAX_JSON_MB)
    ]
    if huge:
        raise _unusable(folder, huge)
    DataValidator(strict=True).validate_model_compatibility(folder)
    try:
        config = _strict_json(folder / MODEL_CONFIG)
        info = _strict_json(folder / TRAINING_INFO)
        spec = FeatureSpec.from_dict(config["features"])
        network_config = NetworkConfig.from_dict(config["network"])
        encoder = ServerEncoder(folder / SERVER_MAPPING)
        faults = [*_version_faults(config, info), *_size_faults(spec, network_config, encoder)]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _unusable(
            folder, [f"{MODEL_CONFIG} does not describe a network ({type(error).__name__}: {error})"]
        ) from error
    if faults:
        raise _unusable(folder, faults)
    try:
        network = served_network(spec, network_config)
        expected_mb = sum(tensor.nbytes for tensor in network.state_dict().values()) / 1e6
        if _is_larger(folder / MODEL_WEIGHTS, expected_mb + _MAX_HEADER_MB):
            raise _unusable(folder, [f"{MODEL_WEIGHTS} is larger than its {expected_mb:.1f} MB of weights can be"])
        # Read, not mapped: a file that is cut while it is mapped would end the process
        weights = load((folder / MODEL_WEIGHTS).read_bytes())
        of_reader = {key: weights.pop(key).numpy() for key in list(weights) if key.startswith(PREFIX)}
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise _unusable(folder, [f"{MODEL_WEIGHTS} or {MODEL_CONFIG} cannot be used ({error})"]) from error
    faults = weight_faults(network.state_dict(), weights)
    if faults:
        raise _unusable(folder, faults)
    calibration = _calibration_of(folder, info, of_reader)
    network.load_state_dict(weights)
    network.eval()
    return LoadedModel(info["model_name"], network, spec, info, encoder, calibration)


def _calibration_of(
    folder: Path, info: dict[str, Any], of_reader: dict[str, npt.NDArray[Any]]
) -> RiskCalibration | None:
    """How the model's risk is to be read; None where the folder says nothing of it."""
    content = info.get("risk_calibration")
    try:
        reader = BreachReader.from_arrays(of_reader) if of_reader else None
        if content is None and reader is not None:
            raise ValueError(f"{MODEL_WEIGHTS} holds a reader of breaches that nothing was fitted for")
        return None if content is None else RiskCalibration.from_dict(content, reader)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{TRAINING_INFO}: risk_calibration is none ({type(error).__name__}: {shorten([str(error)])})"
        raise _unusable(folder, [reason]) from error


def _is_larger(path: Path, megabytes: float) -> bool:
    """Whether a file is there and too large to be read; one that is missing is told later, by name."""
    return path.is_file() and path.stat().st_size > megabytes * 1e6


def _strict_json(path: Path) -> dict[str, Any]:
    """Content of a JSON object file without NaN, infinities or keys that come twice."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{path.name} holds {constant}, which is no JSON number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twice = sorted({key for key, _ in pairs if [each for each, _ in pairs].count(key) > 1})
            raise ValueError(f"{path.name} holds {shorten(twice)} twice")
        return content

    text = path.read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    if not isinstance(content, dict):
        raise TypeError(f"{path.name} holds no JSON object")
    return content


def _version_faults(config: dict[str, Any], info: dict[str, Any]) -> Iterator[str]:
    """What tells that the folder is of another generation, or that its files do not belong together."""
    for file, content in ((MODEL_CONFIG, config), (TRAINING_INFO, info)):
        for key, expected in (("contract_version", CONTRACT_VERSION), ("model_version", MODEL_VERSION)):
            if content.get(key) != expected:
                yield f"{file}: {key} is {shorten(content.get(key))}, this program follows {expected}"
    name = info.get("model_name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,100}", name):
        yield f"{TRAINING_INFO}: model_name is {shorten(name)}, which is no name"


def _size_faults(spec: FeatureSpec, network: NetworkConfig, encoder: ServerEncoder) -> Iterator[str]:
    """What in a description would build another network than training can make, or one that fills the memory."""
    bounds = {
        "hidden_size": (network.hidden_size, 1, 512),
        "attention_heads": (network.attention_heads, 1, 16),
        "lstm_layers": (network.lstm_layers, 1, 4),
        "hidden_continuous_size": (network.hidden_continuous_size, 1, 512),
        "dropout": (network.dropout, 0.0, 0.999),
    }
    for key, (value, least, most) in bounds.items():
        if not least <= value <= most:
            yield f"{MODEL_CONFIG}: {key} is {value}, not within {least} and {most}"
    if network.attention_heads > 0 and network.hidden_size % network.attention_heads:
        yield f"{MODEL_CONFIG}: attention_heads does not divide hidden_size"
    if spec.quantiles != QUANTILES:
        yield f"{MODEL_CONFIG}: quantiles are {shorten(list(spec.quantiles))}, this program serves {list(QUANTILES)}"
    if spec.profiles != VALID_PROFILES or spec.states != VALID_STATES:
        yield f"{MODEL_CONFIG}: profiles or states are not the contract's, in its order"
    scales = spec.prior_scale
    if len(scales) != len(METRIC_COLUMNS) or not all(math.isfinite(scale) and scale >= 0 for scale in scales):
        yield f"{MODEL_CONFIG}: prior_scale is {shorten(list(scales))}, not a spread for each metric"
    known = set(encoder.name_to_id.values())
    strange = [server_id for server_id in spec.server_ids if server_id not in known]
    if strange or len(set(spec.server_ids)) != len(spec.server_ids):
        yield f"{MODEL_CONFIG}: server_ids are not those of {SERVER_MAPPING}: {shorten(strange or 'some come twice')}"


def weight_faults(expected: dict[str, Tensor], found: Any) -> list[str]:
    """What keeps weights from being those of a network: keys, shapes, dtypes, values that are not finite."""
    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    ):
        return ["the weights are not tensors by name"]
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
