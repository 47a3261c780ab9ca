"""Where a training's work lies while it is no model yet, and which of these runs may be gone on with.

`models/runs/<start>/`: what it was begun with (`run.json`), its checkpoints, and its losses as a table and a picture.
Knows nothing of the network or of Lightning.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common_utils import atomic_path, read_json, remove_tree, utc_now, write_json
from config import Settings
from data_contract import CONTRACT_VERSION, MODEL_VERSION, ConfigurationError, TrainingError, shorten
from loss_curve import draw_losses
from model_inputs import Layout
from training_checkpoints import CHECKPOINT_SUFFIX, load_checkpoint, save_checkpoint
from training_options import Restrictions

RUNS = "runs"
GRID = "grid"
LOSSES = "losses.csv"
PICTURE = "losses.png"
DOCUMENT = "Docs/TRAINING.md"

NETWORK_SETTINGS = ("hidden_size", "attention_heads", "dropout", "encoder_pieces", "decoder_patch")
TRAINING_SETTINGS = (
    "learning_rate",
    "batch_size",
    "windows_per_epoch",
    "validation_windows",
    "validation_share",
    "early_stopping_patience",
    "seed",
)

_RUN_FILE = "run.json"
_LOCK_FILE = "run.lock"
_log = logging.getLogger(__name__)


def _made_for() -> dict[str, Any]:
    """What a run of this program is made for; another's checkpoints would not fit."""
    return {"contract_version": CONTRACT_VERSION, "model_version": MODEL_VERSION, "inputs": Layout().names()}


@dataclass(frozen=True)
class Run:
    """An interrupted or fresh training: where it lies and what it was begun with.

    Attributes
    ----------
    fingerprint : str
        Of the data; empty until they are read.
    rate : float
        Share of the planned learning rate to go on with.
    model : str, optional
        Name of the model folder that it became.
    launch : str
        What `torchrun` called the launch that was last at work on it; empty without torchrun.
    device, precision : str
        On what it computes, and how; empty until that is known.
    until : str, optional
    hold_out : float
        What it may not see of the data: `training_options.Restrictions` as JSON.
    """

    folder: Path
    epochs: int
    settings: dict[str, Any]
    fingerprint: str = ""
    rate: float = 1.0
    model: str | None = None
    launch: str = ""
    device: str = ""
    precision: str = ""
    until: str | None = None
    hold_out: float = 0.0

    @classmethod
    def begin(cls, models_dir: Path, settings: Settings, epochs: int, restrictions: Restrictions | None = None) -> Run:
        """A fresh one; nothing is written yet."""
        kept = {key: getattr(settings, key) for key in (*NETWORK_SETTINGS, *TRAINING_SETTINGS)}
        unseen = (restrictions or Restrictions()).as_dict()
        return cls(models_dir / RUNS / f"{utc_now():%Y%m%d_%H%M%S_%f}", epochs, kept, **unseen)

    @property
    def restrictions(self) -> Restrictions:
        """What it may not see of the data."""
        return Restrictions.from_dict({"until": self.until, "hold_out": self.hold_out})

    def insist_on_restrictions(self, restrictions: Restrictions | None) -> None:
        """Refuse others than the run was begun with; None, where nobody said any, are its own.

        Raises
        ------
        TrainingError
            If they differ.
        """
        if restrictions and restrictions != self.restrictions:
            raise TrainingError(
                f"The run {self.folder.name} was begun with {self.restrictions}, and this would be {restrictions}.",
                why="It has learned from what it was allowed to see; what it has not seen cannot be changed any more.",
                fix="Leave --until and --hold-out-servers out, which goes on as it began, or train anew without "
                "--resume.",
                document=DOCUMENT,
            )

    def note(self, **changes: Any) -> Run:
        """Write down what the run was begun with, and what has changed."""
        run = replace(self, **changes)
        content = {key: value for key, value in asdict(run).items() if key != "folder"}
        write_json(self.folder / _RUN_FILE, {**_made_for(), **content})
        return run

    def told(self) -> dict[str, Any]:
        """The run as JSON, for the other processes that are at work on it."""
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def heard(cls, told: dict[str, Any]) -> Run:
        """Inverse of `told`."""
        return cls(**{**told, "folder": Path(told["folder"])})

    def apply_to(self, settings: Settings) -> Settings:
        """Settings as the run was begun, whatever is set now.

        Raises
        ------
        TrainingError
            If they are none, which only somebody's editing can bring about.
        """
        try:
            return Settings(**{**settings.model_dump(), **self.settings})
        except (ValueError, ConfigurationError) as error:
            raise self.unusable(f"its settings are not valid ({str(error).splitlines()[0]})") from error

    def unusable(self, reason: str) -> TrainingError:
        """Tell why the run cannot be gone on with."""
        return TrainingError(
            f"The run {self.folder.name} cannot be resumed: {reason}.",
            why="Its weights would not fit, or would come to mean something else.",
            fix="Train anew without --resume.",
            document=DOCUMENT,
        )

    def insist_on_data(self, fingerprint: str) -> None:
        """Refuse other data than the run was begun with.

        Raises
        ------
        TrainingError
            If they differ.
        """
        if self.fingerprint and self.fingerprint != fingerprint:
            raise TrainingError(
                f"The data is not what the run {self.folder.name} was begun with.",
                why="A model that learned from two different data sets cannot be explained or judged.",
                fix="Give the same --data again, or train anew without --resume.",
                document=DOCUMENT,
            )

    def on(self, device: str, precision: str) -> Run:
        """The run on this kind of device, in this precision (`32-true`, `bf16-mixed`, `16-mixed`).

        Raises
        ------
        TrainingError
            If it was begun on another one, or in another precision.
        """
        if (self.device or device, self.precision or precision) != (device, precision):
            raise TrainingError(
                f"The run {self.folder.name} was begun on {self.device} in {self.precision}, "
                f"and this would be {device} in {precision}.",
                why="Optimiser and weights are laid out for one kind of device and one precision; elsewhere the "
                "training would not go on as it began.",
                fix=f"Give --accelerator {self.device} --precision {self.precision.partition('-')[0]}, or train anew "
                "without --resume.",
                document=DOCUMENT,
            )
        return replace(self, device=device, precision=precision)

    # ------------------------------------------------------------------------------------------------------ checkpoints
    def save(self, state: dict[str, Any], names: tuple[str, ...]) -> None:
        """Keep a training's state; between epochs the table and the picture of the losses, too."""
        content = {**_made_for(), "fingerprint": self.fingerprint, **state}
        save_checkpoint(content, *(self._checkpoint(name) for name in names))
        records = state["progress"]["records"]
        if records and state["progress"]["batch"] == 0:
            self._show_losses(records)

    def _show_losses(self, records: list[dict[str, Any]]) -> None:
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        with atomic_path(self.folder / LOSSES) as partial:
            partial.write_text(table.getvalue(), encoding="utf-8")
        try:
            epochs, training, validation = (
                [record[key] for record in records] for key in ("epoch", "train_loss", "val_loss")
            )
            draw_losses(self.folder / PICTURE, epochs, training, validation)
        except Exception as error:  # noqa: BLE001  # a picture is not worth a training
            _log.warning("The picture of the losses could not be drawn: %s", error)

    def _checkpoint(self, name: str) -> Path:
        return self.folder / f"{name}{CHECKPOINT_SUFFIX}"

    def newest_checkpoint(self) -> Path | None:
        """Where to go on from: the last state, or the newest that was kept; None before the first one."""
        kept = [(int(found[1]), path) for path in self.folder.glob("epoch-*") if (found := _numbered(path))]
        return next(
            (path for path in (self._checkpoint("last"), *(path for _, path in sorted(kept)[::-1])) if path.is_file()),
            None,
        )

    def load(self, path: Path) -> dict[str, Any]:
        """State of a training, as it was saved.

        Raises
        ------
        TrainingError
            If the checkpoint is damaged, or was made for something else.
        """
        state = load_checkpoint(path)
        differs = [key for key, value in _made_for().items() if state.get(key) != value]
        if differs:
            raise self.unusable(f"{path.name} was made for {_tell(differs[0], state.get(differs[0]))}")
        self.insist_on_data(state.get("fingerprint", "none"))
        return state

    def best_weights(self, epoch: int, val_loss: float) -> Any:
        """Weights of the epoch with the lowest validation loss.

        `best` may be of an epoch that was learned again after a crash and then went another way: what a checkpoint says
        of itself decides.

        Raises
        ------
        TrainingError
            If no checkpoint holds them.
        """
        reasons = []
        for name in ("best", f"epoch-{epoch}", "last"):
            try:
                state = self.load(self._checkpoint(name))
                progress = state["progress"]
                newest = progress["records"][-1]
                of = newest["epoch"], newest["val_loss"], progress["epoch"], progress["batch"]
                if of == (epoch, val_loss, epoch, 0):
                    return state["average"]
                reasons.append(f"{name}{CHECKPOINT_SUFFIX} is of another state")
            except (TrainingError, LookupError, TypeError):  # told below: for `best`, removing it would help nobody
                reasons.append(f"{name}{CHECKPOINT_SUFFIX} is missing or damaged")
        raise TrainingError(
            f"No checkpoint of the run {self.folder.name} holds the weights of its best epoch, {epoch}: "
            f"{', '.join(reasons)}.",
            why="The model is made of exactly those weights whose losses are told beside it.",
            fix=f"Restore best{CHECKPOINT_SUFFIX} of that run from a backup and give --resume; or train anew.",
            document=DOCUMENT,
        )

    # ---------------------------------------------------------------------------------------------------------- at work
    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold the run's folder, so that no other training takes it; what is left empty or cut in it goes away.

        Raises
        ------
        TrainingError
            If another process is at work there.
        """
        made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with _held(self.folder) as is_held:
                if is_held is False:
                    raise TrainingError(
                        f"The run {self.folder.name} is at work in another process.",
                        why="Two trainings cannot write to one run.",
                        fix="Wait for the other one, stop it, or train anew without --resume.",
                        document=DOCUMENT,
                    )
                try:
                    _sweep(self.folder.parent, self.folder)
                    yield
                finally:
                    remove_tree(self.folder / GRID)
                    if not (self.folder / _RUN_FILE).is_file():  # it never began
                        (self.folder / _LOCK_FILE).unlink(missing_ok=True)
        finally:
            for folder in made:
                with contextlib.suppress(OSError):  # what has something in it stays
                    folder.rmdir()


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool | None]:
    """Hold a run's folder if nobody else does; None where the file system has no locks.

    By a file in it: NFS locks only files, and only those that are open for writing.
    """
    handle = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except OSError:
            yield None
        else:
            yield True
    finally:
        os.close(handle)


def _sweep(runs: Path, own: Path) -> None:
    """Remove the grids that killed trainings have left; those of trainings at work stay."""
    for grid in runs.glob(f"*/{GRID}"):
        if grid.parent != own:
            with contextlib.suppress(OSError), _held(grid.parent) as is_held:
                if is_held:
                    remove_tree(grid)
                    if not (grid.parent / _RUN_FILE).is_file():
                        (grid.parent / _LOCK_FILE).unlink(missing_ok=True)
                        grid.parent.rmdir()


def interrupted_run(models_dir: Path) -> Run:
    """Find the newest run that did not become a model.

    Raises
    ------
    TrainingError
        If there is none, or if it was begun by a version of this program whose models are others.
    """
    for file, content in _noted(models_dir):
        run = None if content.get("model") is not None else _run_of(file, content)
        if run is not None:
            return run
    raise TrainingError(
        f"There is no interrupted training in {models_dir / RUNS}.",
        why="--resume goes on where a training was stopped.",
        fix="Train anew without --resume, or name the right --models-dir.",
        document=DOCUMENT,
    )


def restarted_run(models_dir: Path, launch: str) -> Run | None:
    """Find the run that a launch of torchrun's was at work on before it was restarted; None if it had begun none.

    Raises
    ------
    TrainingError
        If that cannot be told, or if nothing is left to do: the run became a model, be it a rejected one.
    """
    if not launch:
        raise TrainingError(
            "torchrun has restarted the training, but which run it was at work on cannot be told.",
            why="Several machines need a name for the launch; without one, another training could be taken for it.",
            fix="Go on with --resume; give torchrun an --rdzv-id of its own if it is to restart by itself.",
            document=DOCUMENT,
        )
    for file, content in _noted(models_dir):
        if content.get("launch") == launch:
            if content.get("model") is not None:
                raise TrainingError(
                    f"The training was restarted, but it had ended: the run {file.parent.name} became "
                    f"{shorten(content['model'])}.",
                    why="To learn the same once more would give the same model.",
                    fix="See above why the command failed then; to train anew, give the command again.",
                    document=DOCUMENT,
                )
            return _run_of(file, content)
    return None


def _noted(models_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What is written of each run, the newest first."""
    for file in sorted((models_dir / RUNS).glob(f"*/{_RUN_FILE}"), reverse=True):
        yield file, read_json(file)


def _run_of(file: Path, content: dict[str, Any]) -> Run | None:
    """The run that `run.json` tells of; None if it is none of ours."""
    try:
        run = Run(
            file.parent,
            int(content["epochs"]),
            {key: content["settings"][key] for key in (*NETWORK_SETTINGS, *TRAINING_SETTINGS)},
            str(content["fingerprint"]),
            min(max(float(content.get("rate", 1.0)), 1e-9), 1.0),
            device=str(content.get("device", ""))[:20],
            precision=str(content.get("precision", ""))[:20],
            **Restrictions.from_dict({"until": content.get("until"), "hold_out": content.get("hold_out", 0)}).as_dict(),
        )
    except (ValueError, KeyError, TypeError, OverflowError, TrainingError):
        return None
    differs = [key for key, value in _made_for().items() if content.get(key) != value]
    if differs:
        raise run.unusable(f"it was begun for {_tell(differs[0], content.get(differs[0]))}")
    return run


def _tell(key: str, found: Any) -> str:
    """What a run was made for, in words."""
    if key == "inputs":
        return "other inputs of the network than this program has"
    return f"{key.replace('_', ' ')} {shorten(found)}, this program follows {_made_for()[key]}"


def _numbered(path: Path) -> re.Match[str] | None:
    return re.fullmatch(rf"epoch-(\d{{1,9}}){re.escape(CHECKPOINT_SUFFIX)}", path.name)
