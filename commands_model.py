"""Commands that train, judge and ask a model."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from command_frame import (
    TIME_FORMATS,
    Json,
    ModelDir,
    Quiet,
    command,
    done,
    progress_bars,
    settings_of,
    show_json,
    stdout,
)


@command(
    "train",
    "Docs/TRAINING.md, Docs/MODEL_FOLDER.md",
    "python main.py train",
    "python main.py train --data ./training/ --preset production",
    "python main.py train --preset quick --max-time 2m",
    "python main.py train --resume",
    "python main.py train --until 2026-02-01 --hold-out-servers 0.2",
    "python main.py train --devices 2 --accelerator cpu",
    "torchrun --nproc_per_node 2 tft_trainer.py --data ./training/ --strategy ddp",
)
def train(
    data: Annotated[
        Path | None, typer.Option(help="Parquet file or folder.", show_default="setting data_dir, ./training/")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="5 or more are viable, 10 usual, 20 for production.", show_default="10"),
    ] = None,
    models_dir: Annotated[
        Path | None, typer.Option("--models-dir", help="Where models go.", show_default="setting models_dir, ./models/")
    ] = None,
    preset: Annotated[
        Literal["quick", "standard", "production"],
        typer.Option(help="5 small epochs, 10 or 20; --epochs wins. The expected time is said before it starts."),
    ] = "standard",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the last interrupted training, where it was, with its settings."),
    ] = False,
    max_time: Annotated[
        str | None,
        typer.Option("--max-time", metavar="TIME", help="End after 90s, 10m, 2h or 1h30m and keep the best so far."),
    ] = None,
    precision: Annotated[
        Literal["auto", "32", "bf16", "16"],
        typer.Option(help="Bits of the arithmetic. auto: mixed on a GPU (bf16, else 16), 32 elsewhere."),
    ] = "auto",
    accelerator: Annotated[
        Literal["auto", "cpu", "gpu", "cuda", "mps"], typer.Option(help="auto: a GPU if there is one, else the CPU.")
    ] = "auto",
    devices: Annotated[
        str,
        typer.Option(metavar="auto|N", help="Processes on this machine. auto: one, or what torchrun has started."),
    ] = "auto",
    strategy: Annotated[
        Literal["auto", "ddp"],
        typer.Option(help="Several processes always share their batches by ddp; ddp refuses to train in only one."),
    ] = "auto",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of everything random.", show_default="setting seed")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME", formats=TIME_FORMATS, help="See only rows before then, UTC: later ones can judge the model."
        ),
    ] = None,
    hold_out_servers: Annotated[
        float,
        typer.Option(
            "--hold-out-servers", min=0, max=0.5, help="Share of the servers not to see: they can judge the model."
        ),
    ] = 0.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Learn from contract data: a model folder, to which `models/latest` points.

    Ctrl-C and SIGTERM stop it after the batch, with exit code 1, and `--resume` goes on there as if nothing had been.
    """
    from training_options import TRAIN_PRESETS, Hardware, Restrictions, seconds_of, spare_busy_cores

    spare_busy_cores()
    try:
        max_seconds = None if max_time is None else seconds_of(max_time)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--max-time") from None
    if devices != "auto" and not (devices.isdecimal() and len(devices) <= 4 and 1 <= int(devices) <= 1024):
        raise typer.BadParameter(f"{devices!r} is neither auto nor a number from 1 to 1024.", param_hint="--devices")
    hardware = Hardware(accelerator, None if devices == "auto" else int(devices), strategy, precision)
    flags = {"data_dir": data, "models_dir": models_dir, "seed": seed}
    settings = settings_of(**flags)
    chosen = {name: value for name, value in TRAIN_PRESETS[preset].items() if name not in settings.model_fields_set}
    usual_epochs = chosen.pop("epochs")
    settings = settings_of(**flags, **chosen)

    from tft_trainer import train as learn
    from training_processes import launched

    with launched(hardware):
        folder = learn(
            settings.data_dir,
            settings.models_dir,
            settings,
            epochs=epochs or usual_epochs,
            resume=resume,
            max_seconds=max_seconds,
            hardware=hardware,
            restrictions=Restrictions(until, hold_out_servers),
            console=None if quiet or as_json else Console(stderr=True),
        )
    if as_json:
        info = json.loads((folder / "training_info.json").read_text(encoding="utf-8"))
        show_json({"model_dir": str(folder), **info})
    else:
        done("The model is trained; `models/latest` points to it. Next: python main.py serve", folder)


@command(
    "predict",
    "Docs/ESSENTIAL_RAG.md, Docs/UNKNOWN_SERVER_HANDLING.md",
    "python main.py predict",
    "python main.py predict --server ppweb001 --json",
    "python main.py predict --data other_fleet.parquet --out forecasts.json",
)
def predict(
    model_dir: ModelDir = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Contract Parquet to forecast from.", show_default="setting data_dir, ./training/"),
    ] = None,
    server: Annotated[list[str] | None, typer.Option(help="Only this server; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the forecasts to this JSON file.")] = None,
    as_json: Json = False,
) -> None:
    """Forecast once from a file, without a daemon: 30 minutes, 1 hour and 8 hours after its last step."""
    if out is not None and out.suffix != ".json":
        raise typer.BadParameter("the name must end in .json.", param_hint="--out")
    from tft_predict import forecast_file, show_forecasts, write_forecasts

    settings = settings_of(data_dir=data)
    answer = forecast_file(settings, model_dir or settings.models_dir / "latest", settings.data_dir, server)
    if out is not None:
        write_forecasts(out, answer)
    if as_json:
        show_json(answer)
    else:
        show_forecasts(answer, stdout(), settings)


@command(
    "explain",
    "Docs/EXPLANATIONS.md",
    "python main.py explain ppweb001",
    "python main.py explain ppweb001 --data other_fleet.parquet --json",
)
def explain(
    server: Annotated[str, typer.Argument(help="Name of the server; the model need not know it.")],
    model_dir: ModelDir = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Contract Parquet to forecast from.", show_default="setting data_dir, ./training/"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say why a server's forecast is as it is: the variables and past hours that drove it, and what it starts from."""
    from tft_explain import explain_file, show_explanation

    settings = settings_of(data_dir=data)
    answer = explain_file(settings, model_dir or settings.models_dir / "latest", settings.data_dir, server)
    if as_json:
        show_json(answer)
    else:
        show_explanation(answer, stdout())


@command(
    "backtest",
    "Docs/BACKTEST.md",
    "python main.py backtest",
    "python main.py backtest --preset quick --baselines last_value,seasonal_naive --output report/",
    "python main.py backtest --data vms.parquet --test-days 9 --max-time 30m",
    "python main.py backtest --model models/backtest/latest --origins 10 --json",
    "python main.py backtest --model models/backtest/latest --baselines none --alerts",
)
def backtest(
    data: Annotated[
        Path | None, typer.Option(help="Parquet file or folder.", show_default="setting data_dir, ./training/")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Judge this model folder; refused if it has learned from the test.",
            show_default="train one for the test",
        ),
    ] = None,
    test_days: Annotated[
        float | None,
        typer.Option(
            "--test-days",
            min=0.33,
            max=3650,
            help="Days at the end that judge, in whole blocks of 8 hours.",
            show_default="the last fifth, at most 9",
        ),
    ] = None,
    every: Annotated[
        str, typer.Option(metavar="TIME", help="From one origin to the next: 8h leaves no gap and no overlap.")
    ] = "8h",
    origins: Annotated[
        int | None, typer.Option(min=1, help="At most so many origins, spread evenly.", show_default="all")
    ] = None,
    baselines: Annotated[
        str, typer.Option(metavar="NAMES", help="all, none, or names with commas between; a wrong one lists them.")
    ] = "all",
    hold_out_servers: Annotated[
        float,
        typer.Option(
            "--hold-out-servers", min=0, max=0.5, help="Share of the servers that the model to be trained never sees."
        ),
    ] = 0.2,
    preset: Annotated[
        Literal["quick", "standard", "production"], typer.Option(help="Of the training, as in `train`.")
    ] = "standard",
    epochs: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Of the training.", show_default="by the preset")
    ] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", metavar="TIME", help="End the training after 90s, 10m, 2h or 1h30m.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a backtest's training that was interrupted.")
    ] = False,
    models_dir: Annotated[
        Path | None,
        typer.Option(
            "--models-dir", help="The model goes to its folder backtest/.", show_default="setting models_dir, ./models/"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes for slow baselines.", show_default="cores")
    ] = None,
    alerts: Annotated[
        bool, typer.Option("--alerts", help="Judge alerts, too, beside the rules that people would use instead.")
    ] = False,
    truth: Annotated[
        Literal["auto", "incidents", "crossings"],
        typer.Option(help="What alerts are judged against; auto: a generated fleet's incidents, else crossings."),
    ] = "auto",
    alert_every: Annotated[
        str,
        typer.Option(
            "--alert-every",
            metavar="TIME",
            help="From forecast to forecast when alerts are judged; the daemon's is 5m.",
        ),
    ] = "5m",
    output: Annotated[
        Path | None, typer.Option(help="Folder for result.json and report.html.", show_default="none")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of everything random.", show_default="setting seed")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Judge forecasts on time and servers the model has not seen, beside what people would use instead.

    A model is trained on what lies before the test, without a fifth of the servers. Then every server is forecast from
    many origins, and all methods are scored on the same labels. Ctrl-C ends it with what was finished, exit code 130.
    """
    from training_options import TRAIN_PRESETS, seconds_of, spare_busy_cores

    spare_busy_cores()
    try:
        max_seconds = None if max_time is None else seconds_of(max_time)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--max-time") from None
    steps = {}
    for flag, told in (("--every", every), ("--alert-every", alert_every)):
        try:
            whole, rest = divmod(seconds_of(told), 300)
        except ValueError as error:
            raise typer.BadParameter(f"{error}.", param_hint=flag) from None
        steps[flag] = int(whole)
        if rest or whole < 1:
            raise typer.BadParameter("forecasts begin every 5 minutes or a multiple of that.", param_hint=flag)
    if model is not None and (resume or max_time is not None or epochs is not None):
        raise typer.BadParameter("--resume, --epochs and --max-time are for training one.", param_hint="--model")
    if truth != "auto" and not alerts:
        raise typer.BadParameter("it is for judging alerts: give --alerts, too.", param_hint="--truth")
    if alert_every != "5m" and not alerts:
        raise typer.BadParameter("it is for judging alerts: give --alerts, too.", param_hint="--alert-every")
    flags = {"data_dir": data, "models_dir": models_dir, "seed": seed}
    settings = settings_of(**flags)
    chosen = {name: value for name, value in TRAIN_PRESETS[preset].items() if name not in settings.model_fields_set}
    usual_epochs = chosen.pop("epochs")
    settings = settings_of(**flags, **chosen)

    from tft_backtest import BacktestOptions, baselines_named, insist_on_output, run_backtest, write_result

    try:
        names = baselines_named(baselines)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--baselines") from None
    options = BacktestOptions(
        model_dir=model,
        test_days=test_days,
        every_steps=steps["--every"],
        origins=origins,
        hold_out=hold_out_servers,
        baselines=names,
        epochs=epochs or usual_epochs,
        max_seconds=max_seconds,
        resume=resume,
        workers=workers,
        alerts=alerts,
        truth=truth,
        alert_every_steps=steps["--alert-every"],
    )
    if output is not None:
        insist_on_output(output)
    with progress_bars(quiet=quiet or as_json) as tell:
        console = None if quiet or as_json else Console(stderr=True)
        result = run_backtest(settings.data_dir, settings, options, tell=tell, console=console)
    answer = result.as_dict()
    written = [] if output is None else write_result(answer, output)
    if as_json:
        show_json(answer)
    else:
        from backtest_view import show_backtest

        show_backtest(answer, stdout())
        for path in written:
            done("Written:", path)
    if result.stopped:
        raise typer.Exit(130)
