"""Commands that make, bring in, check and hand out data."""

from __future__ import annotations

import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from command_frame import (
    TIME_FORMATS,
    Json,
    OutDir,
    Quiet,
    command,
    done,
    progress_bar,
    settings_of,
    show_json,
    stdout,
)
from data_contract import ContractError

if TYPE_CHECKING:
    from config import Settings


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
    settings = settings_of(seed=seed, data_dir=out_dir, daemon_url=url)
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
    with progress_bar("Generating", quiet=quiet or as_json) as progress:
        made = make_fleet(
            options, settings.data_dir, progress=progress, file_format=file_format, workers=workers
        ).as_dict()
    if as_json:
        show_json(made)
    else:
        done(
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
    with progress_bar("Importing", quiet=quiet or as_json) as progress:
        report = importer.import_files(files, chosen, settings_of(data_dir=out_dir).data_dir, progress=progress)
    if as_json:
        show_json(report.as_dict())
    else:
        from import_report import render_report

        render_report(report, stdout())


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
        render_explanation(explanation, stdout(), with_mapping=write is None)
    if explanation.fault is not None:
        raise explanation.fault
    if write is not None:
        write_mapping(write, explanation, force=force)
        if not as_json:
            done("The mapping is written; read it, then give it to `python main.py import` with --mapping.", write)


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
    folder = settings_of(data_dir=out_dir).data_dir
    with progress_bar("Importing", quiet=quiet or as_json) as progress:
        report = import_prometheus(url, chosen, folder, since, until, step, progress=progress, tell=tell)
    if as_json:
        show_json(report.as_dict())
    else:
        render_report(report, stdout())


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

    source = path or settings_of().data_dir
    with progress_bar("Exporting", quiet=quiet or as_json) as progress:
        report = export_file(source, out, chosen, servers=server, since=since, until=until, progress=progress).as_dict()
    if as_json:
        show_json(report)
    else:
        done(
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
        path = path or settings_of().data_dir
        with progress_bar("Validating", quiet=quiet or as_json) as progress:
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
            show_judgement(part, stdout())
        for name in bad:
            print(advice[name], file=sys.stderr)
    if bad:
        raise typer.Exit(1)
