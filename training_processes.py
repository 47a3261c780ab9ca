"""On which hardware and in how many processes a training runs, and how its processes agree with one another.

Lightning Fabric brings the devices, mixed precision and the shared gradients (DDP: gloo on CPUs, NCCL on GPUs). The
first process alone reads data, writes files and speaks to people. Knows nothing of what is trained.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from data_contract import TrainingError
from training_options import Hardware, is_launched

DOCUMENT = "Docs/TRAINING.md"

# Longest wait for another process, while the first one reads the data; one that died is noticed at once.
_PATIENCE = timedelta(hours=6)
_ARRIVAL = timedelta(minutes=5)  # for all processes to be started, on the slowest of file systems
_DRAIN_SECONDS = 0.1  # for gloo's threads to let go of what they have done
_LAST_WORDS_SECONDS = 10  # for the other processes to end by themselves

Result = TypeVar("Result")


class Processes:
    """All processes of a training, as one of them sees them.

    Attributes
    ----------
    rank, ranks : int
        Which one this is, and how many there are.
    precision : str
        Of the arithmetic: `32-true`, `bf16-mixed` or `16-mixed`.
    """

    def __init__(self, hardware: Hardware) -> None:
        here, self.ranks = _counts(hardware)
        accelerator, self.precision = _chosen(hardware, here, shared=self.ranks > 1)
        shared = self.ranks > 1
        strategy: Any = DDPStrategy(timeout=_PATIENCE, broadcast_buffers=False) if shared else "auto"
        with _quiet_lightning(), _others_may_end():
            if shared:
                _join(accelerator, self.ranks // here)
            self.fabric = Fabric(
                accelerator=accelerator,
                devices=here,
                num_nodes=self.ranks // here,
                strategy=strategy,
                precision=self.precision,  # type: ignore[arg-type]  # one of its literals
                plugins=[TorchElasticEnvironment()] if shared else None,
            )
            if shared:
                self.fabric.launch()
        self.rank: int = self.fabric.global_rank if shared else 0

    @classmethod
    def alone(cls) -> Processes:
        """One process on the CPU."""
        return cls(Hardware(accelerator="cpu", devices=1))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that reads, writes and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    def describe(self) -> dict[str, Any]:
        """What a later reader wants to know of the hardware."""
        device = self.device.type
        return {
            "accelerator": device,
            "device": torch.cuda.get_device_name(self.device) if device == "cuda" else device,
            "processes": self.ranks,
            "threads": torch.get_num_threads(),
            "precision": self.precision,
        }

    def __str__(self) -> str:
        about = self.describe()
        parts = [about["device"], _counted(about["threads"], "thread")]
        if self.ranks > 1:
            parts.append(f"{self.ranks} processes")
        if self.precision != "32-true":
            parts.append(self.precision)
        return ", ".join(parts)

    def sums(self, *values: float) -> list[float]:
        """Sum of each value over all processes."""
        if self.ranks == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _others_may_end():
            torch.distributed.all_reduce(total)
        return [float(value) for value in total]

    def together(self, work: Callable[[], Result]) -> Result:
        """Let the first process do something and give its result to all; if it fails there, all end.

        The result is one that JSON can hold: what came as a pickle could run code.
        """
        if self.ranks == 1:
            return work()
        text = ""
        failure: BaseException | None = None
        if self.is_first:
            try:
                text = json.dumps(work())
            except BaseException as error:  # noqa: BLE001  # Ctrl-C, too: the others must not wait for ever
                failure = error
        self._unless_any(failure)
        result: Result = json.loads(self._texts(text)[0])
        return result

    def each(self, work: Callable[[], Result]) -> Result:
        """Let every process do something; if it fails in one, all end, and the first one says why."""
        if self.ranks == 1:
            return work()
        failure: BaseException | None = None
        result: Any = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001
            failure = error
        self._unless_any(failure)
        done: Result = result
        return done

    def _unless_any(self, failure: BaseException | None) -> None:
        """End all processes if one of them has failed."""
        told = self._texts("" if failure is None else str(failure) or repr(failure))
        if not any(told):
            return
        if failure is not None and self.is_first:
            raise failure
        self.leave_unless_first(1)
        what = next(text for text in told if text)
        rank = next(number for number, text in enumerate(told) if text)
        raise TrainingError(
            f"Process {rank} of {self.ranks} cannot take part: {what.splitlines()[0]}",
            why="Every process needs the run's folder and the data in it; the training was not begun.",
            fix="With several machines, let --models-dir be on a file system that all of them share.",
            document=DOCUMENT,
        )

    def _texts(self, own: str) -> list[str]:
        """What each process has to say, by rank."""
        content = torch.frombuffer(bytearray(own.encode() or b" "), dtype=torch.uint8).to(self.device)
        own_size = len(own.encode())
        sizes = [int(size) for size in self.sums(*(own_size * (rank == self.rank) for rank in range(self.ranks)))]
        padded = torch.zeros(max(1, *sizes), dtype=torch.uint8, device=self.device)
        padded[:own_size] = content[:own_size]
        found = [torch.empty_like(padded) for _ in sizes]
        with _others_may_end():
            torch.distributed.all_gather(found, padded)
        return [bytes(each[:size].tolist()).decode() for each, size in zip(found, sizes, strict=True)]

    def leave_unless_first(self, code: int) -> None:
        """End this process quietly, unless it is the first one."""
        if not self.is_first:
            self.close()
            end_quietly(code)

    def close(self) -> None:
        """Leave the group; the first process may go on alone."""
        if self.ranks > 1 and torch.distributed.is_initialized():
            time.sleep(_DRAIN_SECONDS)
            with contextlib.suppress(RuntimeError):  # the others may be gone
                torch.distributed.destroy_process_group()

    def setup(self, module: nn.Module) -> Any:
        """Bring a module to the device and make its gradients shared."""
        with _others_may_end():
            return self.fabric.setup_module(module)

    def forward(self, module: nn.Module, batch: object) -> torch.Tensor:
        """What a module that was set up makes of a batch; there, too, processes may exchange."""
        with _others_may_end():
            result: torch.Tensor = module(batch)
        return result

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients; with several processes, their mean."""
        with _others_may_end():
            self.fabric.backward(loss)


@contextlib.contextmanager
def _others_may_end() -> Iterator[None]:
    """Tell the end of another process, which shows as a broken connection, as what it is."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, torch.distributed.DistError) and not any(
            sign in text for sign in ("gloo", "NCCL", "Connection", "connection")
        ):
            raise
        raise ProcessLostError from error


def end_quietly(code: int) -> NoReturn:
    """End one of several processes at once.

    Without the interpreter's own way out: there, gloo's destructor and its threads can wait for one another for ever.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class ProcessLostError(Exception):
    """Another process of the training has ended without a word."""


def process_lost() -> TrainingError:
    """What the first process says when another one is gone."""
    return TrainingError(
        "Another process of this training has ended, so it cannot go on.",
        why="Each process computes its share of every batch; what was learned up to the last checkpoint is kept.",
        fix="See what that process says (killed for want of memory?), then give the same command with --resume.",
        document=DOCUMENT,
    )


# ------------------------------------------------------------------------------------------------------------- hardware
def _chosen(hardware: Hardware, here: int, *, shared: bool) -> tuple[str, str]:
    """Accelerator and precision for so many processes on this machine, if it has what they need."""
    accelerator = _accelerator(hardware.accelerator)
    precision = _precision(hardware.precision, accelerator)
    if shared and accelerator == "mps":
        raise TrainingError(
            "Several processes cannot share Apple's MPS.",
            why="There is one such device, and no way for processes to exchange gradients on it.",
            fix="Train in one process, or give --accelerator cpu.",
            document=DOCUMENT,
        )
    if accelerator == "cuda" and here > torch.cuda.device_count():
        raise TrainingError(
            f"{here} processes on this machine need as many GPUs, and torch finds {torch.cuda.device_count()}.",
            why="Each process computes on a GPU of its own.",
            fix="Start as many processes as there are GPUs (see CUDA_VISIBLE_DEVICES), or give --accelerator cpu.",
            document=DOCUMENT,
        )
    return accelerator, precision


def _accelerator(wanted: str) -> str:
    """Name of what there is to compute on."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(name for name, is_there in there.items() if is_there)
    choice = next((name for name in ("cuda", "mps") if there[name]), "cuda") if wanted == "gpu" else wanted
    if there[choice]:
        return choice
    raise TrainingError(
        f"--accelerator {wanted} cannot be used: torch {torch.__version__} finds no such device here.",
        why="A training that was meant for a GPU would take many times as long on the CPU, so it was not begun.",
        fix="Leave --accelerator out (auto), or install the driver and a torch built for it, then "
        '`python -c "import torch; print(torch.cuda.is_available())"`.',
        document=DOCUMENT,
    )


def _precision(wanted: str, accelerator: str) -> str:
    """Precision by Lightning's name; mixed only where the hardware has it."""
    brain = accelerator == "cpu" or (accelerator == "cuda" and torch.cuda.is_bf16_supported())
    if wanted == "auto":
        return "32-true" if accelerator != "cuda" else "bf16-mixed" if brain else "16-mixed"
    if wanted == "32":
        return "32-true"
    if wanted == "bf16" and brain:
        return "bf16-mixed"
    if wanted == "16" and accelerator == "cuda":
        return "16-mixed"
    raise TrainingError(
        f"--precision {wanted} cannot be used on {accelerator}.",
        why="16 needs a CUDA GPU, bf16 a CPU or a CUDA GPU from Ampere on; elsewhere it would fail or be slower.",
        fix="Leave --precision out: auto takes the best that the hardware has.",
        document=DOCUMENT,
    )


def _counts(hardware: Hardware) -> tuple[int, int]:
    """Processes on this machine, and altogether."""
    if not is_launched():
        if hardware.devices is not None and hardware.devices > 1:
            raise TrainingError(
                f"{hardware.devices} processes were asked for, and this is only one.",
                why="Several processes must be started together to share the batches.",
                fix=f"Use `python main.py train --devices {hardware.devices}`, or "
                f"`torchrun --nproc_per_node {hardware.devices} tft_trainer.py`.",
                document=DOCUMENT,
            )
        if hardware.strategy == "ddp":
            raise TrainingError(
                "--strategy ddp is for several processes, and this is only one.",
                why="The training was meant to be shared, and alone it would take longer than expected.",
                fix="Give --devices 2 or more, or use torchrun; or leave --strategy out.",
                document=DOCUMENT,
            )
        return 1, 1
    ranks = int(os.environ["WORLD_SIZE"])
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    if hardware.devices not in (None, here):
        raise TrainingError(
            f"--devices {hardware.devices} contradicts torchrun, which started {here} processes here.",
            why="torchrun says how many processes there are.",
            fix="Leave --devices out, or give torchrun the same --nproc_per_node.",
            document=DOCUMENT,
        )
    return here, ranks


def _join(accelerator: str, machines: int) -> None:
    """Join the group of all processes, before Lightning would.

    Restarted by torchrun, the processes find the addresses of those that have ended in the store that they share, and
    wait for them in vain (https://github.com/pytorch/pytorch/issues/135712), so on one machine each restart has its
    own part of the store. Over several machines, the restarts are not counted in the same way.
    """
    store, rank, ranks = next(rendezvous("env://", timeout=_ARRIVAL))
    if machines == 1:
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"restart_{restart}", store)
    on_gpu = accelerator == "cuda"
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=_PATIENCE,
        device_id=torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else None,
    )


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notes on hardware and process groups off the screen; its warnings pass."""
    names = [f"lightning.{part}{module}" for part in ("fabric", "pytorch") for module in ("", ".utilities.rank_zero")]
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


# ------------------------------------------------------------------------------------------------------------ launching
@contextlib.contextmanager
def launched(hardware: Hardware) -> Iterator[None]:
    """Start the other processes of `--devices N`: this very command once more each; this one is the first.

    Under `torchrun`, which has started them, and for one process it does nothing.

    Raises
    ------
    TrainingError
        If the hardware is not there, or a process cannot be started; those that were are ended then.
    """
    count = hardware.devices or 1
    if count == 1 or is_launched():
        yield
        return
    cores = max(2, os.cpu_count() or 1)  # two can be tried anywhere
    if _chosen(hardware, count, shared=True)[0] == "cpu" and count > cores:
        raise TrainingError(
            f"{count} processes were asked for, and this machine has {os.cpu_count()} cores.",
            why="More processes than cores only wait for one another, each with its own copy of all that is loaded.",
            fix=f"Give --devices {cores} or fewer; one process with all cores is usually the fastest.",
            document=DOCUMENT,
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = max(1, (os.cpu_count() or 1) // count)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    before = dict(os.environ)
    command = [sys.executable, *sys.orig_argv[1:]]
    others: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, count):
            told = before | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                others.append(subprocess.Popen(command, env=told))  # noqa: S603
            except OSError as error:
                for other in others:
                    other.kill()  # they would wait for it
                raise TrainingError(
                    f"Process {rank} of {count} cannot be started: {error.strerror or error}.",
                    why="All processes must be there to share the batches; those that were started are ended.",
                    fix="Give fewer --devices, or see what limits the number of processes here (`ulimit -u`).",
                    document=DOCUMENT,
                ) from error
        os.environ.update(shared | {"RANK": "0", "LOCAL_RANK": "0"})
        torch.set_num_threads(int(shared["OMP_NUM_THREADS"]))
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        for other in others:
            try:
                other.wait(_LAST_WORDS_SECONDS)
            except subprocess.TimeoutExpired:
                other.send_signal(signal.SIGKILL)
                other.wait()
