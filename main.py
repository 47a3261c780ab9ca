"""Words → calls: every command with its options and its help; how things work stands in the modules it calls."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

try:
    import typer
    from rich.console import Console
except ModuleNotFoundError:  # a Python without our packages: `setup` must run all the same
    if __name__ != "__main__":
        raise
    from tft_setup import start_without_packages

    raise SystemExit(start_without_packages(sys.argv[1:])) from None
except KeyboardInterrupt:  # Ctrl-C within the first tenths of a second
    if __name__ != "__main__":
        raise
    raise SystemExit(130) from None

from data_contract import ContractError, DaemonError, ProductError

if TYPE_CHECKING:
    from config import Settings

ROOT = Path(__file__).resolve().parent


# ------------------------------------------------------------------------------------------------------------ the frame
class Command(typer.core.TyperCommand):
    """A command that tells the product's own errors in four parts and exits with 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command's body."""
        try:
            return super().invoke(ctx)
        except ProductError as error:
            show_error(error, as_json=bool(ctx.params.get("as_json")))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("\nStopped.", file=sys.stderr)
            raise typer.Exit(130) from None


HELP_FLAGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="main.py",
    help="Learns how a fleet of servers behaves and says what CPU, memory, disk I/O and latency will be 30 minutes, "
    "1 hour and 8 hours from now.\n\nUsual order: [bold]setup → generate or import → train → serve → dashboard"
    "[/bold]; [bold]demo[/bold] does all of it, [bold]status[/bold] tells where you are.",
    epilog="Zero to forecast: QUICK_START.md · All documents: Docs/INDEX.md · Settings: `python config.py`",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings=HELP_FLAGS,
)


Body = TypeVar("Body", bound=Callable[..., None])


def command(name: str, document: str, *examples: str, group: typer.Typer = app) -> Callable[[Body], Body]:
    """Register a command whose help ends with examples and the document that explains it."""
    lines = ["[bold]Examples[/bold]", *(f"  [cyan]{example}[/cyan]" for example in examples), f"\nMore: {document}"]
    return group.command(name, cls=Command, epilog="\n".join(lines), context_settings=HELP_FLAGS)


def main() -> None:
    """Run the command line."""
    app(prog_name="python main.py")


def run_command(name: str) -> None:
    """Run one command with the options of this process: what the scripts do when they are called by themselves."""
    group: Any = typer.main.get_command(app)
    group.commands[name].main(prog_name=f"python {Path(sys.argv[0]).name}")


def show_error(error: ProductError, *, as_json: bool) -> None:
    """Print what went wrong, why it matters, how to fix it and where to read on, to standard error."""
    if as_json:
        print(json.dumps({"error": error.as_dict()}, ensure_ascii=False), file=sys.stderr)
        return
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]Error:[/bold red] ", end="")
    console.print(str(error), markup=False)


def show_json(content: Any) -> None:
    """Print JSON, and nothing else, to standard output."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def _settings(**flags: Any) -> Settings:
    """Settings with the flags that were given on top, and logging set up after them."""
    from config import load_settings

    return load_settings(**flags)


def _stdout() -> Console:
    return Console(highlight=False)


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress: the result and errors alone.")]
ModelDir = Annotated[
    Path | None, typer.Option("--model-dir", help="Model folder.", show_default="models_dir/latest, ./models/latest/")
]
OutDir = Annotated[
    Path | None,
    typer.Option("--out_dir", "--out-dir", help="Folder to write to.", show_default="setting data_dir, ./training/"),
]

TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]


def _show_versions(asked: bool) -> None:
    if asked:
        from tft_status import versions

        print(*(f"{name} {number}" for name, number in versions().items()), sep="\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_versions,
            is_eager=True,
            help="Show the versions of the product, the contract, the models, Python and torch.",
        ),
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings file.", show_default="TFT_CONFIG_FILE, tft.toml")
    ] = None,
) -> None:
    """Options that stand before the command."""
    del version  # told by its callback
    if config is not None:
        os.environ["TFT_CONFIG_FILE"] = str(config)


# ------------------------------------------------------------------------------------------------------------- commands
@command("setup", "QUICK_START.md", "python main.py setup")
def setup(as_json: Json = False) -> None:
    """Make .venv, install the pinned packages, check them, and say what was found. Runs on a bare Python."""
    from tft_setup import run_setup

    run_setup(as_json=as_json)


@command("status", "QUICK_START.md", "python main.py status", "python main.py status --json")
def status(as_json: Json = False) -> None:
    """Show data set, model, daemon and dashboard, and what to do next."""
    from tft_status import read_status, show_status

    found = read_status(_settings())
    if as_json:
        show_json(found)
    else:
        show_status(found, _stdout())


@command(
    "doctor",
    "Docs/OPERATIONS.md",
    "python main.py doctor",
    "python main.py doctor installation data",
    "python main.py doctor daemon --json",
    "python main.py doctor model --fix",
)
def doctor(
    sections: Annotated[
        list[str] | None,
        typer.Argument(metavar="SECTION…", help="installation, settings, data, model, daemon, dashboard; all without."),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what can be mended without losing anything; say what was done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find what is wrong here, say why it matters and which command mends it; exit 1 if there are problems.

    What is not there yet, such as a model, is a problem only if its section is named.
    """
    from doctor import examine, sections_named, show_diagnosis

    try:
        chosen = sections_named(sections or ())
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="SECTION…") from None
    found = examine(chosen, repair=fix)
    if as_json:
        show_json(found.as_dict())
    else:
        show_diagnosis(found, _stdout())
    if not found.is_well:
        raise typer.Exit(1)


@command(
    "generate",
    "Docs/DATA_CONTRACT.md, Docs/SERVER_PROFILES.md",
    "python main.py generate",
    "python main.py generate --servers 1000 --hours 168 --seed 7 --out_dir ./training/",
    "python main.py generate --interval 5s --format partitioned",
    "python main.py generate --stream --url http://127.0.0.1:8000 --scenario degrading",
)
def generate(
    servers: Annotated[
        int, typer.Option(min=1, max=100_000, help="Number of servers; the mix of profiles stays the same.")
    ] = 90,
    hours: Annotated[
        int | None,
        typer.Option(
            min=24,
            max=24 * 366 * 10,
            help="Hours of history; 720 (30 days) recommended.",
            show_default="720; --stream: no end",
        ),
    ] = None,
    offline_mode: Annotated[
        Literal["dense", "sparse"],
        typer.Option(
            "--offline_mode",
            "--offline-mode",
            help="Servers that are down: rows with state `offline`, or no rows at all.",
        ),
    ] = "dense",
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out_dir",
            "--out-dir",
            "--output",
            help="Folder to write to.",
            show_default="setting data_dir, ./training/",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same fleet.", show_default="setting seed")] = None,
    interval: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Between rows of a server: 5m or a part of it, e.g. 1m, 15s, 5s, 1s; a bare number is minutes.",
        ),
    ] = "5m",
    file_format: Annotated[
        Literal["parquet", "partitioned", "csv"],
        typer.Option(
            "--format", help="One file; a folder with one file per day, for what is large; CSV for < 10,000 rows."
        ),
    ] = "parquet",
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads; the rows stay the same.", show_default="cores, up to 8")
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"],
            help="First time, UTC, e.g. 2026-01-05T08:00:00Z.",
            show_default="now minus --hours",
        ),
    ] = None,
    scenario: Annotated[
        Literal["healthy", "degrading", "critical"], typer.Option(help="How the fleet is doing.")
    ] = "healthy",
    stream: Annotated[
        bool, typer.Option("--stream", help="Go on where the fleet in --out_dir ends, and post to a daemon, live.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="Daemon to post to (--stream).", show_default="setting daemon_url")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=1, help="Times real time; above 1 the stream begins up to a day back (--stream).")
    ] = 1.0,
    warmup_hours: Annotated[
        float,
        typer.Option("--warmup_hours", "--warmup-hours", min=0, help="Hours of the past posted first (--stream)."),
    ] = 48.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a fleet that could have been: contract Parquet, its metadata and server ids; or stream it live."""
    settings = _settings(seed=seed, data_dir=out_dir, daemon_url=url)
    if stream:
        _stream(settings, speed, scenario, hours, warmup_hours, as_json=as_json)
        return
    from metrics_generator import GeneratorOptions
    from metrics_generator import generate as make_fleet

    options = GeneratorOptions(
        servers=servers,
        hours=720 if hours is None else hours,
        interval_seconds=_interval_seconds(interval),
        start=start.replace(tzinfo=timezone.utc) if start else None,
        seed=settings.seed,
        offline_mode=offline_mode,
        scenario=scenario,
    )
    with _progress("Generating", quiet=quiet or as_json) as progress:
        made = make_fleet(
            options, settings.data_dir, progress=progress, file_format=file_format, workers=workers
        ).as_dict()
    if as_json:
        show_json(made)
    else:
        _done(
            f"{made['rows']:,} rows of {made['servers']:,} servers, {made['start']} to {made['end']}, "
            f"{made['incidents']:,} incident{'' if made['incidents'] == 1 else 's'}",
            made["data_file"],
        )


def _interval_seconds(text: str) -> int:
    """Seconds of `5m`, `15s`, `90 s` or a bare number of minutes."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*(s|sec|seconds?|m|min|minutes?)?\s*", text.lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time such as 5m, 15s or 5s.", param_hint="--interval")
    return int(found[1]) * (1 if (found[2] or "m").startswith("s") else 60)


def _stream(
    settings: Settings,
    speed: float,
    scenario: Literal["healthy", "degrading", "critical"],
    hours: int | None,
    warmup_hours: float,
    *,
    as_json: bool,
) -> None:
    from common_utils import iso_z, utc_now
    from metrics_generator import stream as replay

    def tell(event: Any) -> None:
        if not as_json:
            print(f"{iso_z(utc_now().replace(microsecond=0))} {event.message}", file=sys.stderr, flush=True)

    from config import key_headers

    result = replay(
        settings.data_dir,
        settings.daemon_url,
        speed,
        scenario,
        hours,
        tell,
        warmup_hours=warmup_hours,
        headers=key_headers(settings.api_key),
        ca_file=settings.daemon_ca_file,
    )
    if as_json:
        show_json(result.as_dict())
    if result.interrupted:
        raise typer.Exit(130)


@command(
    "import",
    "Docs/IMPORTING.md",
    "python main.py import vms.parquet --preset bitbrains --out_dir ./training/",
    "python main.py import host1.csv host2.csv --mapping my_mapping.toml",
    "python main.py import --prometheus http://prometheus:9090 --preset node_exporter --from -30d",
    "python main.py import --explain unknown.csv --write my_mapping.toml",
    "python main.py import --list-presets",
)
def import_(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE…", help="CSV or Parquet files, or folders of them.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Shipped mapping to use, see --list-presets.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="Your own mapping file (TOML).")] = None,
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="Import from this Prometheus instead of files; --from says what.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="First time: 2026-11-01, 2026-11-01T08:00Z, -30d, -12h; UTC."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Last time, likewise.", show_default="now")
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Between rows of a server: 5m, 1m, 15s, 5s.", show_default="5m"),
    ] = None,
    out_dir: OutDir = None,
    list_presets: Annotated[bool, typer.Option("--list-presets", help="List the shipped mappings and stop.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Propose a mapping for an unknown file, say why, and stop.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the proposed mapping to this file (--explain).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --write names (--explain).")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Bring foreign CSV or Parquet, or what a Prometheus has, under the contract; every repair is counted."""
    if not explain and (write is not None or force):
        raise typer.BadParameter("--write and --force are for --explain.", param_hint="--write")
    if explain:
        if (preset, mapping, prometheus, out_dir) != (None, None, None, None) or not files:
            raise typer.BadParameter("name a file or folder, and no mapping or Prometheus.", param_hint="--explain")
        _explain(files, write, force=force, as_json=as_json)
        return
    if prometheus is None and (since, until, step) != (None, None, None):
        raise typer.BadParameter("--from, --to and --step are for --prometheus URL.", param_hint="--from")
    if prometheus is not None and not list_presets:
        if files:
            raise typer.BadParameter("give either files or --prometheus.", param_hint="FILE…")
        span = (since, until or "now", step or "5m")
        _import_prometheus(prometheus, preset, mapping, out_dir, *span, quiet=quiet, as_json=as_json)
        return
    if not list_presets and not files:
        raise typer.BadParameter("name at least one file to import.", param_hint="FILE…")
    if not list_presets and (preset is None) == (mapping is None):
        raise typer.BadParameter("give either --preset or --mapping.", param_hint="--preset")
    import metrics_importer as importer

    if list_presets:
        names = importer.presets() | importer.presets(prometheus=True)
        if as_json:
            show_json(names)
        else:
            wide = max(map(len, names))
            print(*(f"{name:<{wide}}  {what}" for name, what in names.items()), sep="\n")
        return
    assert files is not None
    if preset is not None:
        chosen = importer.load_preset(preset)
    else:
        assert mapping is not None
        chosen = importer.load_mapping(mapping)
    with _progress("Importing", quiet=quiet or as_json) as progress:
        report = importer.import_files(files, chosen, _settings(data_dir=out_dir).data_dir, progress=progress)
    if as_json:
        show_json(report.as_dict())
    else:
        from import_report import render_report

        render_report(report, _stdout())


@command(
    "rules",
    "Docs/DAEMON.md",
    "python main.py rules > tft_rules.yml",
    "python main.py rules --mapping my_queries.toml --interval 30 --window 60",
)
def rules(
    mapping: Annotated[
        str, typer.Option(help="Shipped mapping for a Prometheus, or a file of your own.")
    ] = "node_exporter",
    interval: Annotated[int, typer.Option(min=1, max=300, help="Seconds between evaluations.")] = 60,
    window: Annotated[
        int | None,
        typer.Option(min=1, max=3600, help="Seconds that rates are taken over.", show_default="4 × interval"),
    ] = None,
) -> None:
    """Recording rules by which a Prometheus makes the series that it then writes to the daemon (YAML)."""
    from import_mapping import presets
    from prometheus_mapping import load_prometheus_mapping, load_prometheus_preset
    from remote_write import recording_rules

    shipped = mapping in presets(prometheus=True)
    chosen = load_prometheus_preset(mapping) if shipped else load_prometheus_mapping(Path(mapping))
    print(recording_rules(chosen, interval, window or 4 * interval), end="")


def _explain(files: list[Path], write: Path | None, *, force: bool, as_json: bool) -> None:
    from explain_report import render_explanation
    from import_explain import explain, write_mapping

    explanation = explain(files)
    if as_json:
        show_json(explanation.as_dict())
    else:
        render_explanation(explanation, _stdout(), with_mapping=write is None)
    if explanation.fault is not None:
        raise explanation.fault
    if write is not None:
        write_mapping(write, explanation, force=force)
        if not as_json:
            _done("The mapping is written; read it, then give it to `python main.py import` with --mapping.", write)


def _import_prometheus(
    url: str,
    preset: str | None,
    mapping: Path | None,
    out_dir: Path | None,
    since: str | None,
    until: str,
    step: str,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    if (preset is None) == (mapping is None):
        raise typer.BadParameter("give either --preset (node_exporter) or --mapping.", param_hint="--preset")
    if since is None:
        raise typer.BadParameter("say from when on to import, e.g. --from -30d.", param_hint="--from")
    from import_report import render_report
    from prometheus_import import import_prometheus
    from prometheus_mapping import load_prometheus_mapping, load_prometheus_preset

    def tell(sentence: str) -> None:
        if not as_json:
            print(sentence, file=sys.stderr, flush=True)

    chosen = load_prometheus_preset(preset) if preset is not None else load_prometheus_mapping(mapping or Path())
    folder = _settings(data_dir=out_dir).data_dir
    with _progress("Importing", quiet=quiet or as_json) as progress:
        report = import_prometheus(url, chosen, folder, since, until, step, progress=progress, tell=tell)
    if as_json:
        show_json(report.as_dict())
    else:
        render_report(report, _stdout())


@command(
    "export",
    "Docs/IMPORTING.md",
    "python main.py export training/server_metrics.parquet --out fleet.csv",
    "python main.py export training/ --out web.parquet --server ppweb001 --server ppweb002",
    "python main.py export training/ --out week.csv --since 2026-01-05 --until 2026-01-12",
)
def export(
    path: Annotated[
        Path | None,
        typer.Argument(help="Parquet file or folder of them.", show_default="setting data_dir, ./training/"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="required")] = None,
    file_format: Annotated[
        Literal["csv", "parquet"] | None,
        typer.Option("--format", help="Format of the file.", show_default="by the ending of --out"),
    ] = None,
    server: Annotated[list[str] | None, typer.Option(help="Only this server; may be repeated.")] = None,
    since: Annotated[
        datetime | None, typer.Option(metavar="TIME", formats=TIME_FORMATS, help="Only rows from then on, UTC.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(metavar="TIME", formats=TIME_FORMATS, help="Only rows before then, UTC.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write contract data as one CSV or Parquet file, whole or cut; `import --preset contract` brings it back."""
    if out is None:
        raise typer.BadParameter("name the file to write.", param_hint="--out")
    endings: dict[str, Literal["csv", "parquet"]] = {".csv": "csv", ".parquet": "parquet"}
    chosen = file_format or endings.get(out.suffix.lower())
    if chosen is None:
        raise typer.BadParameter("give it, or let --out end in .csv or .parquet.", param_hint="--format")
    from metrics_exporter import export_file

    source = path or _settings().data_dir
    with _progress("Exporting", quiet=quiet or as_json) as progress:
        report = export_file(source, out, chosen, servers=server, since=since, until=until, progress=progress).as_dict()
    if as_json:
        show_json(report)
    else:
        _done(
            f"{report['rows']:,} rows of {report['servers']:,} servers, {report['start']} to {report['end']}",
            report["out"],
        )


@command(
    "validate",
    "Docs/DATA_CONTRACT.md, Docs/DATA_QUALITY.md, Docs/MODEL_FOLDER.md",
    "python main.py validate training/server_metrics.parquet",
    "python main.py validate training/ --strict",
    "python main.py validate exports/ --json --all-servers",
    "python main.py validate --model-dir ./models/latest/",
)
def validate(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Parquet file, or folder of them, of any size.", show_default="setting data_dir, ./training/"
        ),
    ] = None,
    model_dir: Annotated[Path | None, typer.Option("--model-dir", help="Model folder to judge, too.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors: exit 1. Notes never do.")] = False,
    all_servers: Annotated[
        bool, typer.Option("--all-servers", help="With --json: every server, not only the 1,000 worst.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check data, a model folder or both; all findings at once; exit 1 if there are errors.

    Errors break the contract. Warnings are allowed, but look wrong: gaps, clocks, readings that stand still, units.
    """
    from data_validator import DataValidator, model_folder_error

    validator = DataValidator()
    answer: dict[str, Any] = {}
    advice: dict[str, str] = {}
    if path is not None or model_dir is None:
        path = path or _settings().data_dir
        with _progress("Validating", quiet=quiet or as_json) as progress:
            answer["data"] = validator.validate_file(path, progress=progress).as_dict(all_servers=all_servers)
        advice["data"] = ContractError.from_findings(str(path), []).advice
    if model_dir is not None:
        compatible, errors = validator.validate_model_compatibility(model_dir)
        answer["model"] = {"source": str(model_dir), "is_valid": compatible, "errors": errors, "warnings": []}
        advice["model"] = model_folder_error(model_dir, []).advice
    bad = [name for name, part in answer.items() if not part["is_valid"] or (strict and part["warnings"])]
    if as_json:
        show_json({"is_valid": not bad, **answer})
    else:
        from validation_view import show_judgement

        for part in answer.values():
            show_judgement(part, _stdout())
        for name in bad:
            print(advice[name], file=sys.stderr)
    if bad:
        raise typer.Exit(1)


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
    settings = _settings(**flags)
    chosen = {name: value for name, value in TRAIN_PRESETS[preset].items() if name not in settings.model_fields_set}
    usual_epochs = chosen.pop("epochs")
    settings = _settings(**flags, **chosen)

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
        _done("The model is trained; `models/latest` points to it. Next: python main.py serve", folder)


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

    settings = _settings(data_dir=data)
    answer = forecast_file(settings, model_dir or settings.models_dir / "latest", settings.data_dir, server)
    if out is not None:
        write_forecasts(out, answer)
    if as_json:
        show_json(answer)
    else:
        show_forecasts(answer, _stdout(), settings)


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

    settings = _settings(data_dir=data)
    answer = explain_file(settings, model_dir or settings.models_dir / "latest", settings.data_dir, server)
    if as_json:
        show_json(answer)
    else:
        show_explanation(answer, _stdout())


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
    settings = _settings(**flags)
    chosen = {name: value for name, value in TRAIN_PRESETS[preset].items() if name not in settings.model_fields_set}
    usual_epochs = chosen.pop("epochs")
    settings = _settings(**flags, **chosen)

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
    with _steps(quiet=quiet or as_json) as tell:
        console = None if quiet or as_json else Console(stderr=True)
        result = run_backtest(settings.data_dir, settings, options, tell=tell, console=console)
    answer = result.as_dict()
    written = [] if output is None else write_result(answer, output)
    if as_json:
        show_json(answer)
    else:
        from backtest_view import show_backtest

        show_backtest(answer, _stdout())
        for path in written:
            _done("Written:", path)
    if result.stopped:
        raise typer.Exit(130)


@command(
    "serve",
    "Docs/DAEMON.md",
    "python main.py serve",
    "python tft_inference.py --daemon --port 8000 --model-dir ./models/latest/",
    "python main.py serve --data training/server_metrics.parquet",
    "curl http://127.0.0.1:8000/predictions/current",
)
def serve(
    daemon: Annotated[bool, typer.Option("--daemon", help="Run until stopped, as it does without this flag.")] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="setting daemon_host, 127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on.", show_default="setting daemon_port, 8000")
    ] = None,
    model_dir: ModelDir = None,
    data: Annotated[
        Path | None, typer.Option(help="Contract Parquet whose tail is taken in at the start.", show_default="none")
    ] = None,
    history_dir: Annotated[
        Path | None,
        typer.Option(
            "--history-dir", help="Where accepted rows are kept.", show_default="setting history_dir, ./history/"
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert", help="Certificate chain (PEM) to speak HTTPS with.", show_default="setting tls_cert"
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="Its private key (PEM).", show_default="setting tls_key")
    ] = None,
) -> None:
    """Start the daemon: rows in over HTTP, forecasts and alerts out. Ctrl-C stops it cleanly."""
    from tft_inference import serve as run_daemon

    del daemon  # the owner's command names it; there is no other way to run
    settings = _settings(
        daemon_host=host, daemon_port=port, history_dir=history_dir, tls_cert=tls_cert, tls_key=tls_key
    )
    model_dir = model_dir or settings.models_dir / "latest"
    run_daemon(settings, model_dir, settings.daemon_host, settings.daemon_port, data)


keys_app = typer.Typer(
    help="Say who may ask the daemon: make, list and revoke API keys. Without any, everybody on this machine may, and "
    "nobody else.",
    epilog="More: Docs/DAEMON.md",
    no_args_is_help=True,
    context_settings=HELP_FLAGS,
    rich_markup_mode="rich",
)
app.add_typer(keys_app, name="keys")


@command(
    "create",
    "Docs/DAEMON.md",
    "python main.py keys create --name dashboard --scope read",
    "python main.py keys create --name prometheus --scope write --expires 90d",
    'curl -H "Authorization: Bearer $TFT_API_KEY" http://127.0.0.1:8000/status',
    group=keys_app,
)
def keys_create(
    name: Annotated[str, typer.Option(help="Who will use it; to know which one to revoke.")],
    scope: Annotated[
        Literal["read", "write", "admin"],
        typer.Option(help="read: every GET; write: rows, acknowledgements, too; admin: the model, too."),
    ] = "read",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Valid for 90d, 12h or 30m.", show_default="until revoked")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once. A running daemon knows it within a second.

    The first key closes the daemon: from then on nobody is let in without one.
    """
    from api_keys import create_key

    path = _settings().api_keys_file
    key, stored = create_key(path, name, scope, None if expires is None else _duration(expires, "--expires"))
    if as_json:
        show_json({"key": key, **stored.as_dict(), "file": str(path)})
        return
    print(key)
    until = "until it is revoked" if stored.expires is None else f"until {stored.as_dict()['expires']}"
    print(
        f"\nThis is the key of {name}, scope {scope}, valid {until}. It is not kept and cannot be shown again.\n"
        f"Send it as `Authorization: Bearer <key>`; our own programs take it from TFT_API_KEY.\n"
        f"To revoke it: python main.py keys revoke {stored.id}",
        file=sys.stderr,
    )


@command("list", "Docs/DAEMON.md", "python main.py keys list", group=keys_app)
def keys_list(as_json: Json = False) -> None:
    """List the keys: id, name, scope, state and times. What a key reads like, nobody knows any more."""
    from api_keys import list_keys

    path = _settings().api_keys_file
    keys = [key.as_dict() for key in list_keys(path)]
    if as_json:
        show_json({"file": str(path), "keys": keys})
        return
    if not keys:
        print(f"There are no keys in {path}: the daemon lets in everybody on its machine, and nobody else.")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "name", "scope", "state", "created", "ends", box=None, pad_edge=False)
    for key in keys:
        ends = key["revoked"] or key["expires"] or "never"
        times = (text.replace("T", " ").removesuffix(":00Z").removesuffix("Z") for text in (key["created"], ends))
        table.add_row(key["id"], escape(key["name"]), key["scope"], key["state"], *times)
    _stdout().print(table)


@command("revoke", "Docs/DAEMON.md", "python main.py keys revoke 0f3a52c19b7e", group=keys_app)
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `keys list` shows it.")],
    as_json: Json = False,
) -> None:
    """Revoke a key for good. A running daemon refuses it within a second; nothing needs to be restarted."""
    from api_keys import revoke_key

    stored = revoke_key(_settings().api_keys_file, key_id)
    if as_json:
        show_json(stored.as_dict())
    else:
        _done(f"Revoked: {stored.name} ({stored.scope})", stored.id)


def _duration(text: str, flag: str) -> timedelta:
    """Time of `90d`, `12h` or `30m`."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*(d|h|m)\s*", text.lower())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time such as 90d, 12h or 30m.", param_hint=flag)
    return timedelta(**{{"d": "days", "h": "hours", "m": "minutes"}[found[2]]: int(found[1])})


@command(
    "dashboard",
    "Docs/DASHBOARD_GUIDE.md",
    "python main.py dashboard",
    "python main.py dashboard --port 8600 --daemon-url http://127.0.0.1:8000",
)
def dashboard(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen on.", show_default="setting dashboard_port, 8501"),
    ] = None,
    daemon_url: Annotated[
        str | None, typer.Option("--daemon-url", help="Daemon to show.", show_default="setting daemon_url")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 shows it to your network.")] = "127.0.0.1",
) -> None:
    """Start the dashboard in the browser. Ctrl-C stops it."""
    from child_processes import port_is_free
    from tft_demo import dashboard_command

    settings = _settings(dashboard_port=port, daemon_url=daemon_url)
    if not port_is_free(host, settings.dashboard_port):
        raise DaemonError(
            f"Port {settings.dashboard_port} of {host} is in use.",
            why="Two programs cannot listen on one port; the dashboard was not started.",
            fix="Stop the other one, or choose another: `python main.py dashboard --port 8502`.",
            document="Docs/DASHBOARD_GUIDE.md",
        )
    line = dashboard_command(host, settings.dashboard_port)
    environment = {**os.environ, "TFT_DAEMON_URL": settings.daemon_url}
    if os.name == "posix":  # become Streamlit, so that signals reach it and its exit code is ours
        os.execve(line[0], line, environment)  # noqa: S606
    raise typer.Exit(subprocess.run(line, env=environment, check=False).returncode)  # noqa: S603


@command(
    "demo",
    "QUICK_START.md",
    "make demo",
    "python main.py demo",
    "python main.py demo --check",
)
def demo(
    check: Annotated[
        bool, typer.Option("--check", help="Verify forecasts and dashboard without a person, then stop.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the daemon.", show_default="8000, or the next free one"),
    ] = None,
    dashboard_port: Annotated[
        int | None,
        typer.Option(
            "--dashboard-port",
            min=1,
            max=65535,
            help="Port of the dashboard.",
            show_default="8501, or the next free one",
        ),
    ] = None,
) -> None:
    """Everything at once: fleet, short training, daemon, live replay, dashboard. Ctrl-C stops all of it."""
    from tft_demo import run_demo

    run_demo(_settings(), _stdout(), port=port, dashboard_port=dashboard_port, check=check)


@command(
    "completion",
    "Docs/CLI.md",
    'eval "$(python main.py completion bash)"',
    "python main.py completion fish | source",
)
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="Shell that shall run the script.")],
) -> None:
    """Print a script by which a shell completes commands, options and their choices after `python main.py`."""
    from cli_completion import completion_script
    from cli_words import commands_of

    print(completion_script(shell, list(commands_of(typer.main.get_command(app)))), end="")


# -------------------------------------------------------------------------------------------------------------- showing
@contextlib.contextmanager
def _progress(description: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Progress bar on standard error, which leaves standard output to the result; gives `advance(done, total)`."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def _steps(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on standard error, one after the other; gives `tell(what, done, total)`."""
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bars = Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True)
    tasks: dict[str, TaskID] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what not in tasks:
            for task in tasks.values():
                bars.update(task, visible=False)
            tasks[what] = bars.add_task(what)
            bars.start()
        bars.update(tasks[what], completed=done, total=total)
        if done >= total:  # what comes next may draw its own
            bars.update(tasks[what], visible=False)
            bars.stop()
            tasks.clear()

    try:
        yield tell
    finally:
        bars.stop()


def _done(what: str, where: object) -> None:
    console = _stdout()
    console.print("[green]✓[/green] ", end="")
    console.print(f"{what}\n  {where}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
