"""Which models lie in a folder, as far as that can be told without loading them. Knows nothing of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from data_contract import TRAINING_INFO

MOST: Final = 50
_PREFIX: Final = "tft_model_"
_MAX_BYTES: Final = 16_000_000


def list_models(model_dir: Path, served: str | None = None) -> list[dict[str, Any]]:
    """The newest models beside the one that a folder, or a link to one, holds.

    Parameters
    ----------
    model_dir : Path
        What is served: `models/latest`, or one of the folders.
    served : str, optional
        Name of the folder that is in use; it is listed even if it has gone since.

    Returns
    -------
    list of dict
        The newest first, 50 at most: name, served, model_version, contract_version, created_at, servers, validation
        (scores on the validation period) and problem (why nothing is known of it, else None).
    """
    parent = model_dir.parent
    try:
        names = {each.name for each in parent.iterdir() if each.name.startswith(_PREFIX) and each.is_dir()}
    except OSError:
        names = set()
    names |= {served} if served else set()
    # Their names hold the time at which they were made.
    return [_listed(parent / name, served=name == served) for name in sorted(names, reverse=True)[:MOST]]


def _listed(folder: Path, *, served: bool) -> dict[str, Any]:
    told: dict[str, Any] = {}
    problem = None
    try:
        path = folder / TRAINING_INFO
        if path.stat().st_size > _MAX_BYTES:
            problem = f"{TRAINING_INFO} is too large."
        else:
            found = json.loads(path.read_bytes())
            told = found if isinstance(found, dict) else {}
            problem = None if told else f"{TRAINING_INFO} holds no object."
    except (OSError, ValueError, RecursionError):
        problem = f"{TRAINING_INFO} cannot be read."
    data = told.get("data")
    servers = data.get("servers") if isinstance(data, dict) else None
    validation = told.get("validation")
    return {
        "name": folder.name,
        "served": served,
        **{key: _text(told.get(key)) for key in ("model_version", "contract_version", "created_at")},
        "servers": servers if isinstance(servers, int) and not isinstance(servers, bool) else None,
        "validation": validation if isinstance(validation, dict) else None,
        "problem": problem,
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _self_check() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("tft_model_1", '{"model_version": "4.0.0", "data": {"servers": 3}}'), ("tft_model_2", "[")):
            (Path(folder) / name).mkdir()
            (Path(folder) / name / TRAINING_INFO).write_text(text, encoding="utf-8")
        second, first = list_models(Path(folder) / "latest", "tft_model_1")
        assert first["served"] and first["servers"] == 3 and first["problem"] is None
        assert second["problem"] == f"{TRAINING_INFO} cannot be read."
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
