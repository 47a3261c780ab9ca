"""Which column of a sample names the server, which the state and which the role, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from data_contract import PROFILE, SERVER_NAME, STATE, VALID_PROFILES, VALID_STATES, name_fault
from explain_names import Meaning, words
from explain_sample import Column, Sample
from explain_values import Confidence, Finding, codes_of, joined
from import_cells import Integers

_DATA_ENDINGS: Final = (".csv", ".tsv", ".parquet", ".pq", ".txt", ".log", ".dat", ".gz", ".bz2", ".zst")
# Words that monitoring tools use → the contract's words
_STATE_WORDS: Final = {
    "healthy": (
        "ok",
        "up",
        "normal",
        "running",
        "green",
        "good",
        "online",
        "active",
        "gesund",
        "an",
        "normal",
        "poweredon",
    ),
    "offline": (
        "down",
        "off",
        "stopped",
        "aus",
        "poweredoff",
        "unreachable",
        "shutdown",
        "terminated",
        "eteint",
        "dead",
    ),
    "maintenance": ("maint", "wartung", "planned", "draining", "cordoned", "maintenancemode"),
    "critical_issue": (
        "critical",
        "crit",
        "error",
        "red",
        "alarm",
        "failed",
        "failure",
        "kritisch",
        "critique",
        "fatal",
    ),
    "heavy_load": ("warning", "warn", "high", "busy", "overloaded", "yellow", "heavy", "loaded", "belastet", "hoch"),
    "recovery": ("recovering", "starting", "booting", "restarting", "erholung", "resuming"),
    "idle": ("leerlauf", "inactive", "unused", "standby", "inactif"),
}
_PROFILE_WORDS: Final = {
    "web_api": ("web", "www", "frontend", "api", "http", "nginx", "apache", "proxy", "webserver", "app", "appserver"),
    "database": (
        "db",
        "sql",
        "oracle",
        "postgres",
        "postgresql",
        "mysql",
        "mariadb",
        "mongodb",
        "mongo",
        "datenbank",
        "rdbms",
    ),
    "ml_compute": ("ml", "gpu", "training", "compute", "ai", "inference"),
    "data_ingest": ("etl", "ingest", "kafka", "ingestion", "pipeline", "loader", "stream", "streaming", "batch"),
    "risk_analytics": ("risk", "analytics", "quant", "risiko"),
    "conductor_mgmt": (
        "conductor",
        "scheduler",
        "mgmt",
        "management",
        "control",
        "controlplane",
        "orchestrator",
        "master",
    ),
    "generic": ("other", "misc", "general", "sonstige", "autre", "default", "none"),
}


# -------------------------------------------------------------------------------------------------------------- server
def guess_server(
    sample: Sample, said: Sequence[Meaning | None], times: Integers, taken: Sequence[int], files: Sequence[Path]
) -> Finding:
    """Find what names the server: a column, a folder, the file's name; or there is one server alone.

    Parameters
    ----------
    sample : Sample
        The file.
    said : sequence
        What the names say, by place.
    times : array
        Times of the sampled rows.
    taken : sequence of int
        Columns that hold the time.
    files : sequence of Path
        All files that are to be imported.
    """
    best: tuple[float, Column, list[str]] | None = None
    for column in sample.columns:
        meaning = said[column.place]
        named = meaning.strength if meaning is not None and meaning.role == "server" else 0
        if column.place in taken or (meaning is not None and not named and meaning.role not in {"", "metric"}):
            continue
        judged = _judge_server(column, named, times, sample)
        if judged is not None and (best is None or judged[0] > best[0]):
            best = (judged[0], column, judged[1])
    if best is not None:
        rank, column, why = best
        meaning = said[column.place]
        if meaning is not None and meaning.role == "server":
            why.insert(0, meaning.why)
        folder = column.name in sample.file.constants and column.place >= len(sample.names) - len(sample.file.constants)
        if folder:
            why.append("the name of a folder states it")
        confidence: Confidence = "sure" if rank >= 3 else "likely" if rank >= 2 else "guess"
        return Finding(
            SERVER_NAME, (column.place,), {"column": sample.reference(column.place)}, "", confidence, tuple(why)
        )
    return _server_of_header(sample) or _server_of_file(files)


def _judge_server(column: Column, named: int, times: Integers, sample: Sample) -> tuple[float, list[str]] | None:
    """How well a column would do as the server's name, and why; None if it cannot be one."""
    kind = column.cells.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    coded = codes_of(column.cells) if text or pa.types.is_integer(kind) or named >= 2 else None
    if coded is None:
        return None
    texts, places = coded
    used = [texts[place] for place in np.unique(places[places >= 0])]
    usable = [name for name in used if name.strip() and not name_fault(name.strip())]
    rows = int((places >= 0).sum())
    if not usable or len(usable) < 0.9 * len(used) or rows < 0.9 * sample.rows:
        return None
    numbers = sum(bool(re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?", name.strip())) for name in usable)
    fractional = any(re.fullmatch(r"[+-]?\d+[.,]\d+", name.strip()) for name in usable)
    if fractional or (numbers > 0.5 * len(usable) and not named):
        return None
    several = len(usable) > 1
    shown = f"{len(usable):,} different value{'s' * several}: {joined([repr(name)[:40] for name in usable], 3)}"
    pairs = np.unique(np.stack([times, places]), axis=1).shape[1]
    moments = len(np.unique(times))
    # A name earns its place by telling rows of the same time apart.
    tells = several and pairs > 1.5 * moments and pairs >= 0.9 * sample.rows
    if named >= 2:
        rank = float(named) + 0.5 * tells
        if numbers > 0.5 * len(usable) and len(usable) == sample.rows and sample.rows > 20:
            rank -= 2  # a running number
        return (rank, [shown]) if rank > 0 else None
    if not several and re.fullmatch(r"[A-Za-z][\w.-]*\d[\w.-]*|[A-Za-z][\w-]*\.[\w.-]+", usable[0].strip()):
        return 0.5, [shown, "it looks like a server's name"]
    if not tells or len(usable) > 0.5 * sample.rows:
        return None
    digits = sum(any(character.isdigit() for character in name) for name in usable) / len(usable)
    return 1.0 + 0.5 * named + 0.4 * digits, [shown, "it tells rows of the same time apart"]


def _server_of_header(sample: Sample) -> Finding | None:
    r"""The host that all columns name, as Windows does: `\\WEB01\Memory\Available MBytes`."""
    hosts = {match[1] for name in sample.names if (match := re.match(r"\\\\([^\\]+)\\.+", name.strip()))}
    if len(hosts) == 1 and not name_fault(host := hosts.pop()):
        return Finding(SERVER_NAME, (), {"name": host}, "", "sure", (rf"the names of the columns begin with \\{host}",))
    return None


def _server_of_file(files: Sequence[Path]) -> Finding:
    names = [path.name for path in files]
    if len(files) == 1:
        why = ("no column names a server: all rows are of one, called by the file's name",)
        warning = (
            "that the file is of one server is a guess: give it a name with `server.name` if you know a better one"
        )
        return Finding(SERVER_NAME, (), {"from_file_name": True}, "", "guess", why, (warning,))
    if len(set(names)) < len(names):
        why = ("no column names a server, and files in different folders have one name",)
        warning = (
            "files of one name would be taken for one server: rename the folders to host=NAME, which counts as a column"
        )
        return Finding(SERVER_NAME, (), {"from_file_name": True}, "", "guess", why, (warning,))
    shown = joined([repr(name)[:40] for name in names], 3)
    why = (f"no column names a server: one file each, {len(names):,} of them: {shown}",)
    return Finding(SERVER_NAME, (), {"from_file_name": True}, "", "likely", why)


def server_pattern(files: Sequence[Path]) -> str | None:
    """Regular expression whose group `server` is what differs in the names of files; None if the usual rule does.

    The usual rule is: a file that ends like data is read, and the server is its name up to the first dot.
    """
    names = [path.name for path in files]
    stems = [name[: len(name) - len(_ending(name))] for name in names]
    usual = all(
        name.lower().endswith((".csv", ".tsv", ".parquet", ".pq", ".csv.gz", ".csv.bz2", ".csv.zst")) for name in names
    )
    if len(files) == 1:
        return None if "." not in stems[0] else r"(?P<server>.+)" + _endings_pattern(names)
    prefix = _common(stems)
    suffix = _common([stem[len(prefix) :][::-1] for stem in stems])[::-1]
    prefix = re.sub(r"[A-Za-z0-9]+$", "", prefix)  # whole words only: web1 and web2 are not 1 and 2
    suffix = re.sub(r"^[A-Za-z0-9]+", "", suffix)
    if usual and not prefix and not suffix and not any("." in stem for stem in stems):
        return None
    return f"{re.escape(prefix)}(?P<server>.+){re.escape(suffix)}{_endings_pattern(names)}"


def _ending(name: str) -> str:
    """What follows a file's name: `.csv.gz`."""
    found = ""
    while name.lower().endswith(_DATA_ENDINGS):
        ending = "." + name.rsplit(".", 1)[1]
        found, name = ending + found, name[: -len(ending)]
    return found


def _endings_pattern(names: Sequence[str]) -> str:
    endings = sorted({_ending(name) for name in names})
    return re.escape(endings[0]) if len(endings) == 1 else f"(?:{'|'.join(map(re.escape, endings))})"


def _common(texts: Sequence[str]) -> str:
    """The beginning that all texts share."""
    low, high = min(texts), max(texts)
    length = next((place for place, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), len(low))
    return low[:length]


# ------------------------------------------------------------------------------------------------------ state and role
def guess_state(sample: Sample, said: Sequence[Meaning | None], taken: Sequence[int]) -> Finding:
    """Find the column that holds the state, with the translation of its words where that is obvious."""
    return _guess_words(sample, said, taken, STATE, VALID_STATES, _STATE_WORDS)


def guess_profile(sample: Sample, said: Sequence[Meaning | None], taken: Sequence[int]) -> Finding:
    """Find the column that holds the role, with the translation of its words where that is obvious."""
    return _guess_words(sample, said, taken, PROFILE, VALID_PROFILES, _PROFILE_WORDS)


def _guess_words(
    sample: Sample,
    said: Sequence[Meaning | None],
    taken: Sequence[int],
    field: str,
    valid: tuple[str, ...],
    known: dict[str, tuple[str, ...]],
) -> Finding:
    best: tuple[float, Finding] | None = None
    for column in sample.columns:
        meaning = said[column.place]
        named = meaning is not None and meaning.role == field
        coded = codes_of(column.cells) if column.place not in taken else None
        if coded is None or not (pa.types.is_string(column.cells.type) or pa.types.is_large_string(column.cells.type)):
            continue
        texts, places = coded
        used = [texts[place].strip() for place in np.unique(places[places >= 0]) if texts[place].strip()]
        if not used or len(used) > 50:
            continue
        own = [word for word in used if word.casefold() in valid]
        values = {word: to for word in used if word not in own and (to := _translation(word, known))}
        share = (len(own) + len(values)) / len(used)
        if not share or not (named or len(own) > 0.5 * len(used)):
            continue
        unknown = [word for word in used if word not in own and word not in values]
        section: dict[str, Any] = {"column": sample.reference(column.place)}
        if values:
            section["values"] = values
        why = [meaning.why] if named and meaning is not None else []
        why.append(f"its words are {joined([repr(word)[:30] for word in used], 6)}")
        warnings = []
        if unknown:
            listed = joined([repr(word)[:30] for word in unknown], 6)
            warnings.append(
                f"words of `{field}` that say nothing to the contract: {listed}; add them to `{field}.values`"
            )
        confidence: Confidence = (
            "sure" if named and not values and not unknown else "likely" if share > 0.5 else "guess"
        )
        rank = share + named
        if best is None or rank > best[0]:
            best = rank, Finding(field, (column.place,), section, "", confidence, tuple(why), tuple(warnings))
    if best is not None:
        return best[1]
    derived = "derived by the contract's rule" if field == STATE else "by the server's name, else generic"
    return Finding(field, why=(f"no column says it: {derived}",))


def _translation(word: str, known: dict[str, tuple[str, ...]]) -> str | None:
    compact = "".join(words(word))
    for to, foreign in known.items():
        if compact in foreign or compact == to.replace("_", ""):
            return to
    return None


def _self_check() -> None:
    files = [Path("export_web-1.csv"), Path("export_db-2.csv")]
    assert server_pattern(files) == r"export_(?P<server>.+)\.csv"
    assert server_pattern([Path("web1.csv"), Path("web2.csv")]) is None
    assert server_pattern([Path("web1.example.org.csv")]) == r"(?P<server>.+)\.csv"
    assert _translation("PoweredOff", _STATE_WORDS) == "offline" and _translation("blue", _STATE_WORDS) is None
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
