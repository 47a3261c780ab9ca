"""How an interrupted training is kept: checkpoints as safetensors and JSON instead of pickles.

A checkpoint is one safetensors file: its tensors are the tensors of a tree of dicts and lists, and all the rest of the
tree lies as JSON in the file's metadata. Reading one can run no code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common_utils import atomic_path
from data_contract import TrainingError

CHECKPOINT_SUFFIX = ".safetensors"
_TREE = "tree"


def save_checkpoint(checkpoint: dict[str, Any], *paths: Path) -> None:
    """Write a checkpoint, to each path atomically.

    Raises
    ------
    TrainingError
        If the disk is full or the folder cannot be written; an earlier checkpoint of that name stays.
    """
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_encode(checkpoint, tensors))
    for path in paths:
        try:
            with atomic_path(path) as partial:
                save_file(tensors, partial, metadata={_TREE: tree})
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"The checkpoint {path.name} could not be saved: {getattr(error, 'strerror', None) or error}.",
                why="Without it, an interrupted training could not go on; the checkpoints before it are whole.",
                fix="Free some space, then go on from the last one with `python main.py train --resume`.",
                document="Docs/TRAINING.md",
            ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises
    ------
    TrainingError
        If the file is damaged or no checkpoint of this kind.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no dict
            tree = json.loads(file.metadata()[_TREE])
        checkpoint = _decode(tree, tensors)
        if not isinstance(checkpoint, dict):
            raise TypeError("it holds no dict")  # told like all that is wrong with it
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise TrainingError(
            f"The checkpoint {path} cannot be read: {error}.",
            why="Training can only go on from a whole checkpoint.",
            fix="Remove that file: --resume then goes on from the newest one before it. Or train anew without it.",
            document="Docs/TRAINING.md",
        ) from error
    return checkpoint


def _encode(node: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON form of a checkpoint's tree; tensors go to `tensors` and leave their key."""
    if node is None or isinstance(node, (bool, int, str)):
        return node
    if isinstance(node, float):
        return {"float": node.hex()}  # exact, and knows nan and inf
    if isinstance(node, Tensor):
        key = str(len(tensors))
        tensors[key] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": key}
    if isinstance(node, (list, tuple)):
        return {type(node).__name__: [_encode(item, tensors) for item in node]}
    if isinstance(node, dict):
        return {"dict": [[_encode(key, tensors), _encode(value, tensors)] for key, value in node.items()]}
    raise TypeError(f"a checkpoint must not hold a {type(node).__qualname__}")


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "float":
        return float.fromhex(content)
    if kind == "tensor":
        return tensors[content]
    if kind == "list":
        return [_decode(item, tensors) for item in content]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    if kind == "dict":
        return {_decode(key, tensors): _decode(value, tensors) for key, value in content}
    raise ValueError(f"unknown node {kind!r}")
