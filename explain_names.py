"""What a column's name says: which metric, time, server, state or role it is, in which unit, or why not.

Knows the names of the usual tools (`explain_tools.py`) and plain English, German and French words. Knows nothing of
values.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from explain_tools import BLOCKS, BUSY_DISK, CPU, DISK, DISK_TIME, LATENCY, MEMORY, OPERATIONS, SHORT, TOOLS


@dataclass(frozen=True)
class Meaning:
    """What a name says.

    Attributes
    ----------
    role : str
        A metric's column, or `time`, `server`, `state`, `profile`, `value` (a number that something else names),
        `metric` (the name of what `value` is).
    part : str
        What of it: `busy`, `idle`, `wait`, `user` (a share to add up), `used`, `free`, `capacity`, `read`, `write`,
        `total`, `end`.
    unit : str or None
        The unit that the name states, in the words of a mapping; of a rate without its period, `B`, `KB`, ….
    strength : int
        3: a tool's own name, or clear words with a unit; 2: clear words; 1: a hint.
    why : str
        The evidence, for people.
    statistic : int
        0 mean or not said, then medians, high quantiles, maximum, minimum: the lower the better.
    refused : str
        Why it cannot be used although it is near.
    """

    role: str
    part: str = "total"
    unit: str | None = None
    strength: int = 2
    why: str = ""
    statistic: int = 0
    refused: str = ""


# ------------------------------------------------------------------------------------------------------------- words
# Stems of four letters and more fit the beginning of a word (German compounds), shorter ones whole words.
_CPU: Final = ("cpu", "cpus", "vcpu", "cpuu", "cpup", "cpul", "cpui", "cpua", "processor", "prozessor", "processeur")
_MEMORY: Final = ("mem", "ram", "memory", "memu", "memp", "mema", "memf", "memt", "speicher", "arbeitsspeicher")
_MEMORY_MORE: Final = ("hauptspeicher", "memoire")
_DISK: Final = (
    "io",
    "dsk",
    "hdd",
    "ssd",
    "ebs",
    "vfs",
    "disk",
    "disc",
    "disque",
    "platte",
    "festplatte",
    "datentrager",
)
_DISK_MORE: Final = ("storage", "volume", "physicaldisk", "logicaldisk", "virtualdisk", "blkio", "blockdevice")
_NETWORK: Final = ("net", "nic", "rx", "tx", "network", "netz", "reseau", "bandwidth", "ethernet", "recv", "sent")
_NETWORK_MORE: Final = ("received", "transmit", "packet", "traffic", "empfangen", "gesendet", "ifin", "ifout")
_LATENCY: Final = (
    "rtt",
    "ttfb",
    "latency",
    "latenc",
    "latenz",
    "antwortzeit",
    "reaktionszeit",
    "responsetime",
    "roundtrip",
)
_LATENCY_MORE: Final = ("ping", "icmpping", "duration", "elapsed", "delay", "verzogerung", "dauer", "duree")
_ANSWER: Final = ("response", "request", "reponse", "answer", "antwort", "query", "anfrage", "requete", "probe")
_TIME_WORD: Final = ("time", "zeit", "temps", "ms", "msec", "seconds", "millis", "sec", "us", "ns", "duration", "s")
_TIME: Final = (
    "ts", "when", "utc", "tag", "jour", "time", "timestamp", "datetime", "date", "datum", "zeit", "zeitstempel",
    "uhrzeit", "heure", "horodatage", "epoch", "clock", "moment", "zeitpunkt", "recorded",
)  # fmt: skip
_END: Final = ("end", "ende", "bis", "fin", "until", "stop", "to", "finish")
_SERVER: Final = (
    "vm", "ip", "host", "hosts", "hostname", "server", "servers", "servername", "serveur", "node", "nodename",
    "machine", "instance", "computer", "rechner", "rechnername", "knoten", "maschine", "hote", "noeud", "vmid",
    "vmname", "container", "resource", "resourceid", "instanceid", "asset", "entity", "fqdn", "srv",
)  # fmt: skip
_SERVER_HINT: Final = (
    "id",
    "name",
    "nom",
    "pod",
    "device",
    "system",
    "target",
    "source",
    "address",
    "cluster",
    "object",
)
_STATE: Final = ("state", "status", "zustand", "statut", "etat", "health", "healthstate", "condition", "verfugbarkeit")
_PROFILE: Final = (
    "profile", "profil", "role", "rolle", "tier", "servertype", "service", "dienst", "function", "funktion",
    "category", "kategorie", "workload", "group", "gruppe", "groupe", "type", "typ", "class", "klasse", "app",
    "application",
)  # fmt: skip
_VALUE: Final = (
    "value",
    "val",
    "wert",
    "werte",
    "valeur",
    "average",
    "avg",
    "mean",
    "mittelwert",
    "moyenne",
    "last",
    "sum",
)
_VALUE_MORE: Final = ("maximum", "minimum", "max", "min", "p50", "p95", "samplecount")
_METRIC: Final = (
    "metric",
    "metricname",
    "counter",
    "item",
    "itemname",
    "label",
    "measurement",
    "kpi",
    "parameter",
    "field",
)

_PERCENT: Final = ("pct", "percent", "percentage", "prozent", "pourcent", "perc", "pourcentage")
_RATIO: Final = ("ratio", "fraction", "anteil", "frac")
_IDLE: Final = ("idle", "idl", "leerlauf", "inactif", "inactive", "cpuidle", "usageidle")
_WAIT: Final = ("iowait", "wait", "wa", "iowt", "wio", "warten", "attente")
_PARTS: Final = ("user", "usr", "sys", "system", "kernel", "nice", "steal", "irq", "softirq", "privileged", "systeme")
_CAPACITY: Final = (
    "capacity", "provisioned", "cores", "core", "count", "anzahl", "nombre", "limit", "quota", "kapazitat",
    "capacite", "allocated", "installed", "num", "size", "threads", "max", "sockets",
)  # fmt: skip
_WHOLE: Final = ("total", "gesamt", "totale", "memtotal")
_USED: Final = (
    "used", "usage", "util", "utilization", "utilisation", "utilized", "consumed", "active", "benutzt", "genutzt",
    "belegt", "auslastung", "nutzung", "belegung", "verbrauch", "utilise", "occupied", "memused", "busy", "load",
    "last", "charge", "workingset", "rss", "taux", "verwendet",
)  # fmt: skip
_FREE: Final = (
    "free",
    "available",
    "avail",
    "frei",
    "verfugbar",
    "libre",
    "disponible",
    "memfree",
    "memavail",
    "usable",
)
_READ: Final = (
    "read",
    "reads",
    "rd",
    "gelesen",
    "lesen",
    "lese",
    "lecture",
    "lectures",
    "lu",
    "readbytes",
    "rkb",
    "lesend",
)
_WRITE: Final = (
    "write", "writes", "wr", "written", "wrtn", "geschrieben", "schreiben", "schreib", "ecriture", "ecrit",
    "writebytes", "wkb", "writ",
)  # fmt: skip
_OPERATION: Final = (
    "iops",
    "ops",
    "op",
    "operation",
    "operations",
    "requests",
    "ios",
    "tps",
    "transfers",
    "merged",
    "merges",
)
_FLOW: Final = (
    "throughput",
    "durchsatz",
    "debit",
    "bytes",
    "byte",
    "rate",
    "io",
    "transfer",
    "mbps",
    "kbps",
    "bps",
    "usage",
)
_FULL: Final = (
    "used",
    "free",
    "space",
    "full",
    "inode",
    "size",
    "capacity",
    "avail",
    "belegt",
    "frei",
    "voll",
    "libre",
)
_PROCESS: Final = {"java", "process", "pid", "prozess", "processus", "thread", "jvm", "gc"}


def _any(tokens: Iterable[str], stems: Sequence[str]) -> bool:
    return any(token == stem or (len(stem) >= 4 and token.startswith(stem)) for token in tokens for stem in stems)


_COMPOUND: Final = re.compile(
    r"(max|min|avg|disk|net|mem|cpu|total|free|used)"
    r"(cpu|mem|disk|reads?|writes?|in|out|usage|used|free|total|util|load|idle|pct|perc|percent|io|avail|available)"
    r"|(cpu|core)(\d{1,3})"
)


@lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """Words of a name in lower case, without accents; `CPUUtilization` is two."""
    name = unicodedata.normalize("NFKD", name[:300])
    name = "".join(character for character in name if not unicodedata.combining(character)).replace("ß", "ss")
    name = name.replace("%", " pct ").replace("µ", "u").replace("μ", "u")
    name = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", " ", name)
    found: list[str] = []
    for word in re.findall(r"[a-z0-9]+", name.lower()):
        compound = _COMPOUND.fullmatch(word)
        found += [part for part in compound.groups() if part] if compound else [word]
    return tuple(found)


def _plain(name: str) -> str:
    return " ".join(name.lower().lstrip("#").split())[:300]


def meanings(names: Sequence[str], context: str = "") -> list[Meaning | None]:
    """What each of the names of one table says, None where it says nothing.

    Parameters
    ----------
    names : sequence of str
        All columns.
    context : str
        What the file's name and columns that never change say; it helps names such as `value` and `used_percent`.
    """
    plain = {_plain(name) for name in names}
    tool_of_short = max(SHORT, key=lambda tool: len(plain & set(SHORT[tool])))
    short = SHORT[tool_of_short] if len(plain & set(SHORT[tool_of_short])) >= 3 else {}
    found: list[Meaning | None] = []
    for name in names:
        key = _plain(name)
        if key in short:
            role, part, unit, refused = short[key]
            found.append(Meaning(role, part, unit, 3, f"{name!r} is a name of {tool_of_short}", refused=refused))
        else:
            found.append(meaning(name, context))
    return found


@lru_cache(maxsize=4096)
def meaning(name: str, context: str = "") -> Meaning | None:
    """What one name says by itself, with the help of the context."""
    key = _plain(name)
    counter = re.fullmatch(
        r"\\\\[^\\]+\\([^\\(]+)(?:\([^)]*\))?\\(.+)", name.strip()
    )  # \\host\object(instance)\counter
    if counter:
        key = _plain(counter[2])
        if key == "% idle time" and "disk" in counter[1].lower():
            return Meaning(DISK, why=f"{counter[2]!r} of a disk", refused=BUSY_DISK)
        if "process" in words(counter[1]):
            return Meaning(CPU, why=f"{counter[2]!r}", refused="is of one process, not of the machine")
    for tool, known in TOOLS.items():
        if key in known:
            role, part, unit, refused = known[key]
            return Meaning(role, part, unit, 3, f"{key!r} is a name of {tool}", refused=refused)
    tokens = words(f"{counter[1]} {counter[2]}" if counter else name)
    found = _by_words(tokens, name)
    if found is not None and (found.role != "value" or not context):
        return found
    helped = _by_words((*words(context), *tokens), name) if context and _needs_context(tokens) else None
    if helped is None or helped.role in {"time", "server", "state", "profile", "value", "metric"}:
        return found
    exact = meaning(context) if found is not None else None
    if exact is not None and exact.strength == 3:
        helped = exact
    return replace(
        helped, strength=min(helped.strength, 2), why=f"{helped.why}, by what stands around it ({context!r:.60})"
    )


def _needs_context(tokens: tuple[str, ...]) -> bool:
    """Whether a name tells too little by itself and may be helped: `value`, `used_percent`, but no other subject."""
    helped = (
        *_VALUE,
        *_VALUE_MORE,
        *_PERCENT,
        *_RATIO,
        *_IDLE,
        *_WAIT,
        *_PARTS,
        *_USED,
        *_FREE,
        *_WHOLE,
        *_READ,
        *_WRITE,
        "bytes",
    )
    return bool(tokens) and all(_any([token], helped) or len(token) < 2 for token in tokens)


def _by_words(tokens: tuple[str, ...], name: str) -> Meaning | None:
    """What plain words say: the metrics first, then the keys."""
    if not tokens:
        return None
    why = f"the name {name!r:.80} speaks of "
    disk, network = _any(tokens, (*_DISK, *_DISK_MORE)), _any(tokens, (*_NETWORK, *_NETWORK_MORE))
    answer = _any(tokens, (*_LATENCY, *_LATENCY_MORE)) or (_any(tokens, _ANSWER) and _any(tokens, _TIME_WORD))
    if answer and not _any(tokens, (*_OPERATION, "count", "bytes", "size", "status", "code")):
        found = _latency(tokens, name)
        return replace(found, why=f"{why}latency", refused=DISK_TIME if disk else found.refused)
    if network and not _any(tokens, _CPU):
        if disk or _any(tokens, (*_FLOW, "in", "out", "mb", "kb")) or len(tokens) > 1:
            return Meaning("", why=f"{why}the network", refused="is the network: no metric of the contract")
        return None
    if _any(tokens, _CPU):
        found = _cpu(tokens)
        return replace(found, why=f"{why}the CPU")
    if disk and not (_any(tokens, ("memory", "mem")) and not _any(tokens, ("disk", "dsk"))):
        found_disk = _disk(tokens, name)
        if found_disk is not None:
            return replace(found_disk, why=f"{why}the disk")
    if _any(tokens, (*_MEMORY, *_MEMORY_MORE)):
        found = _memory(tokens, name)
        return replace(found, why=f"{why}memory")
    if "iops" in tokens:
        return Meaning(DISK, refused=OPERATIONS)
    if "swap" in tokens:
        return Meaning("", refused="is swap, not memory in use")
    if _any(tokens, ("load", "loadavg", "load1", "load5", "load15", "ldavg")):
        return Meaning("", refused="is the length of a queue (load average), not a percentage")
    return _key(tokens, name)


def _key(tokens: tuple[str, ...], name: str) -> Meaning | None:
    """Times, servers, states, roles, and names that need another."""
    if "uptime" in tokens:
        return None
    if _any(tokens, _TIME) and not _any(tokens, ("zone", "timezone", "interval", "lifetime")):
        part = "end" if _any(tokens, _END) else "total"
        return Meaning("time", part, duration_unit(name), 2 if len(tokens) <= 4 else 1, f"is called {name!r:.60}")
    if _any(tokens, _SERVER) and not _any(tokens, (*_STATE, "type", "role", "port", "version", "count")):
        strength = 3 if tokens[-1] in {"name", "id", "hostname", "fqdn"} or len(tokens) == 1 else 2
        return Meaning("server", strength=strength, why=f"is called {name!r:.60}")
    if _any(tokens, _STATE):
        return Meaning("state", why=f"is called {name!r:.60}")
    if _any(tokens, _PROFILE):
        return Meaning("profile", why=f"is called {name!r:.60}")
    if all(token in (*_VALUE, *_VALUE_MORE) for token in tokens):
        return Meaning("value", statistic=_statistic(tokens), strength=1, why=f"is called {name!r:.60}")
    if tokens[-1] in _METRIC or tokens[0] in _METRIC:
        return Meaning("metric", strength=1, why=f"is called {name!r:.60}")
    if _any(tokens, _SERVER_HINT) and len(tokens) <= 2:
        return Meaning("server", strength=1, why=f"is called {name!r:.60}")
    return None


def _percent(tokens: tuple[str, ...]) -> str | None:
    if _any(tokens, _PERCENT):
        return "percent"
    return "ratio" if _any(tokens, _RATIO) else None


def _cpu(tokens: tuple[str, ...]) -> Meaning:
    unit = _percent(tokens)
    strength = 3 if unit else 2
    statistic = _statistic(tokens)
    if "seconds" in tokens or _any(tokens, ("jiffies", "ticks")):
        return Meaning(CPU, refused="counts CPU seconds, not a share: export its rate, e.g. 100 − 100 × rate of idle")
    if _any(tokens, ("temp", "temperature", "queue", "ready", "credit", "credits", "interrupts", "switches", "watts")):
        return Meaning(CPU, refused="is another property of the processor than its load")
    if not _PROCESS.isdisjoint(tokens):
        return Meaning(CPU, refused="is of one process, not of the machine")
    if _any(tokens, ("loadavg", "load1", "load5", "load15", "avg1", "avg5")) or (
        "load" in tokens and "average" in tokens
    ):
        return Meaning(CPU, refused="is the length of a queue (load average), not a percentage")
    if re.search(r"\b(?:cpu|core|processor|prozessor) ?\d{1,3}\b(?! ?(?:m|min|s|sec|h)\b)", " ".join(tokens)):
        return Meaning(CPU, refused="is of one core, not of the machine")
    if _any(tokens, _IDLE):
        return Meaning(CPU, "idle", unit, strength, statistic=statistic)
    if _any(tokens, _WAIT):
        return Meaning(CPU, "wait", unit, strength, statistic=statistic)
    if _any(tokens, _PARTS) and not _any(tokens, _WHOLE):
        return Meaning(CPU, "user", unit, strength, statistic=statistic)
    amounts = {"mhz": "MHz", "ghz": "GHz", "millicores": "millicores", "cores": "cores"}
    amount = next((unit for word, unit in amounts.items() if word in tokens), None)
    capacity = _any(tokens, [word for word in _CAPACITY if word != "max"]) or (amount and _any(tokens, _WHOLE))
    if amount and _any(tokens, ("used", "usage", "consumed", "benutzt")):
        return Meaning(CPU, "used", amount, 3, statistic=statistic)
    if capacity and not unit:
        return Meaning(CPU, "capacity", amount or "cores", 2)
    if amount:
        return Meaning(CPU, "used", amount, 2, statistic=statistic)
    clear = unit or _any(tokens, (*_USED, "utilization"))
    return Meaning(CPU, "busy", unit, strength if clear else 1, statistic=statistic)


def _memory(tokens: tuple[str, ...], name: str) -> Meaning:
    unit = _percent(tokens)
    strength = 3 if unit else 2
    statistic = _statistic(tokens)
    if _any(
        tokens, ("swap", "cache", "cached", "buffer", "buffers", "heap", "page", "pages", "fault", "slab", "commit")
    ):
        return Meaning(MEMORY, refused="is a part of memory (swap, cache, heap, …), not how full it is")
    if not _PROCESS.isdisjoint(tokens):
        return Meaning(MEMORY, refused="is of one process, not of the machine")
    if _any(tokens, ("bandwidth", "gps", "speed", "errors")):
        return Meaning(MEMORY, refused="is another property of memory than how full it is")
    size = size_unit(name)
    if _any(tokens, _FREE):
        return Meaning(MEMORY, "idle" if unit else "free", unit or size, strength, statistic=statistic)
    if unit:
        return Meaning(MEMORY, "busy", unit, strength, statistic=statistic)
    if not size and _any(tokens, ("util", "utilization", "utilisation", "auslastung", "taux", "load", "belegung")):
        return Meaning(MEMORY, "busy", None, 2, statistic=statistic)
    used = _any(tokens, _USED)
    if _any(tokens, (*_WHOLE, *_CAPACITY)) and not (used and _any(tokens, ("max", "total"))):
        return Meaning(MEMORY, "capacity", size, 3 if size else 2)
    return Meaning(MEMORY, "used" if used or size else "busy", size, 2 if used else 1, statistic=statistic)


def _disk(tokens: tuple[str, ...], name: str) -> Meaning | None:
    unit = rate_unit(name)
    read, write = _any(tokens, _READ), _any(tokens, _WRITE)
    statistic = _statistic(tokens)
    if _any(tokens, _OPERATION) and not _any(tokens, ("bytes", "throughput")) and not (unit and "iops" not in tokens):
        return Meaning(DISK, refused=OPERATIONS)
    if (
        _any(tokens, ("queue", "await", "wait", "busy", "util", "utilization", "time", "latency", "seconds", "sec"))
        and not unit
    ):
        return Meaning(DISK, refused=BUSY_DISK)
    if _any(tokens, _PERCENT):
        return Meaning(DISK, refused="is a share of a capacity that is not stated, or how full the disk is")
    if _any(tokens, ("blocks", "sectors")):
        return Meaning(DISK, refused=BLOCKS)
    if not (unit or read or write) and _any(tokens, (*_FULL, "usage")):
        return Meaning(DISK, refused="says how full the disk is, not how much it moves")
    if re.search(r"[kmg]?bits?\b", name.lower()):
        return Meaning(DISK, refused="is in bits, a unit that a mapping does not have")
    part = "total" if read == write else "read" if read else "write"
    if unit:
        return Meaning(DISK, part, unit, 3, statistic=statistic)
    size = size_unit(name)
    if read or write or _any(tokens, _FLOW):
        return Meaning(DISK, part, size, 2, statistic=statistic)
    return Meaning(DISK, part, None, 1, statistic=statistic)


def _latency(tokens: tuple[str, ...], name: str) -> Meaning:
    unit = duration_unit(name)
    if _any(tokens, ("bucket", "count")):
        return Meaning(LATENCY, refused="is a counter of a histogram, not a time")
    if unit and "sum" in tokens:
        return Meaning(LATENCY, refused="is a sum since the start, not a time")
    clear = _any(tokens, _LATENCY) or _any(tokens, _ANSWER)
    return Meaning(LATENCY, "total", unit, 3 if unit and clear else 2 if clear else 1, statistic=_statistic(tokens))


def _statistic(tokens: tuple[str, ...]) -> int:
    ranks = {
        1: ("p50", "median", "q50"),
        2: ("p90", "p95", "p99", "q95", "q99", "p999", "90th", "95th", "99th"),
        3: ("max", "maximum", "peak", "spitze"),
        4: ("min", "minimum"),
        5: ("sum", "stddev", "std", "samplecount", "count", "variance"),
    }
    return max((rank for rank, names in ranks.items() if any(token in names for token in tokens)), default=0)


# ------------------------------------------------------------------------------------------------------------- units
_PERIODS: Final = {"s": "s", "sec": "s", "second": "s", "seconds": "s", "sekunde": "s", "m": "min", "min": "min"}
_PERIODS_MORE: Final = {"minute": "min", "h": "h", "hour": "h", "stunde": "h"}
_RATE: Final = re.compile(
    r"(?:^|[^a-z]|(?<=[^a-z][rw]))(?P<k>[kmgt]?)i?(?:b|bytes?|octets?|o)"
    r"(?:[ _](?:read|wrtn|written))?(?:\s*/\s*|[ _]*per[ _]*|[ _](?=s\b|sec))"
    r"(?P<p>s|sec|seconds?|sekunde|min|minute|h|hour|stunde)(?![a-z])"
)
_SHORT_RATE: Final = re.compile(r"(?:^|[^a-z])(?P<k>[kmgt]?)(?:bps|byteps)(?![a-z])")
_SIZE: Final = re.compile(r"(?:^|[^a-z])(?P<k>[kmgt]?)(?P<i>i?)(?:b|bytes?|octets?|byte)(?![a-z])")
_DURATION: Final = {
    "ns": ("ns", "nanosecond", "nanoseconds", "nanosekunden"),
    "us": ("us", "usec", "microsecond", "microseconds", "mikrosekunden"),
    "ms": ("ms", "msec", "msecs", "millis", "millisecond", "milliseconds", "millisekunden", "millisecondes"),
    "s": ("s", "sec", "secs", "second", "seconds", "sekunden", "secondes"),
    "min": ("min", "mins", "minutes", "minuten"),
}


def rate_unit(name: str) -> str | None:
    """Unit of a rate that a name states, e.g. `KB/s`."""
    text = name.lower()
    match = _RATE.search(text)
    if match:
        return f"{match['k'].upper()}B/{(_PERIODS | _PERIODS_MORE).get(match['p'], 's')}"
    short = _SHORT_RATE.search(text)
    return f"{short['k'].upper()}B/s" if short else None


def size_unit(name: str) -> str | None:
    """Unit of an amount that a name states, e.g. `KB`."""
    match = _SIZE.search(name.lower().replace("kbytes", "kb").replace("mbytes", "mb").replace("gbytes", "gb"))
    return f"{match['k'].upper()}B" if match else None


def duration_unit(name: str) -> str | None:
    """Unit of a time that a name states, e.g. `ms`."""
    for token in reversed(words(name)):
        for unit, names in _DURATION.items():
            if token in names:
                return unit
    return None


def _self_check() -> None:
    found = meanings(["CPU-Auslastung [%]", "kbmemused", "Disk read throughput [KB/s]", "Antwortzeit [s]", "Rechner"])
    assert [(m.role, m.unit) for m in found if m] == [
        (CPU, "percent"),
        (MEMORY, "KB"),
        (DISK, "KB/s"),
        (LATENCY, "s"),
        ("server", None),
    ]
    assert meaning("node_load1") is None or meaning("node_load1").refused  # type: ignore[union-attr]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
