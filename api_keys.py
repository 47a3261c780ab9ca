"""Who may ask the daemon: API keys with a scope, hashed on disk, re-read while the daemon runs.

A key is 256 random bits, shown once and never kept: the file has its SHA-256 alone. A slow, salted hash would defend
what can be guessed; these keys cannot be (NIST SP 800-63B, section 5.1.2.2: from 112 bits of entropy on, a secret needs
an approved one-way function, and neither salt nor key derivation), and every request would pay for it.
Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import pydantic_core
import structlog
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from common_utils import atomic_path, iso_z, utc_now
from data_contract import ApiKeyError, name_fault, shorten

log = structlog.stdlib.get_logger(__name__)

KeyScope = Literal["read", "write", "admin"]
# Each includes those before it.
SCOPES: Final[tuple[KeyScope, ...]] = get_args(KeyScope)

# tft_<id>_<secret>: the prefix is for scanners that look for leaked secrets, the id finds the key without a search
KEY_PATTERN: Final = re.compile(r"tft_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")

CHECK_SECONDS: Final = 1.0  # a key that is made or revoked counts after this long at most
MAX_FILE_BYTES: Final = 4_000_000  # more than 10,000 keys
MAX_KEYS: Final = 10_000

_FORMAT: Final = 1
_NO_DIGEST: Final = "0" * 64  # what an unknown id is compared with, so that it takes as long as a known one
_MINIMAL_EXPIRY: Final = timedelta(minutes=1)


def _plain_name(name: str) -> str:
    fault = name_fault(name)
    if fault is not None:
        raise ValueError(f"the name {fault}")
    return name


class StoredKey(BaseModel):
    """What is kept of a key; the key itself is not.

    Attributes
    ----------
    id : str
        Tells keys apart in logs and lists; no secret.
    sha256 : str
        Hash of the whole key, hexadecimal.
    expires, revoked : datetime or None
        From when on it is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    name: Annotated[str, StringConstraints(max_length=100), AfterValidator(_plain_name)]
    scope: KeyScope
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] = Field(repr=False)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    @property
    def state(self) -> Literal["active", "expired", "revoked"]:
        """Whether it opens anything now."""
        now = utc_now()
        if self.revoked is not None and self.revoked <= now:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def allows(self, needed: KeyScope) -> bool:
        """Whether its scope includes the one that is needed."""
        return SCOPES.index(self.scope) >= SCOPES.index(needed)

    def as_dict(self) -> dict[str, Any]:
        """What is shown of it: everything but the hash."""
        shown = {name: getattr(self, name) for name in ("created", "expires", "revoked")}
        return {
            "id": self.id,
            "name": self.name,
            "scope": self.scope,
            "state": self.state,
            **{name: None if moment is None else iso_z(moment) for name, moment in shown.items()},
        }


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    keys: Annotated[list[StoredKey], Field(max_length=MAX_KEYS)]


# ----------------------------------------------------------------------------------------------------- making, revoking
def create_key(path: Path, name: str, scope: KeyScope, valid_for: timedelta | None = None) -> tuple[str, StoredKey]:
    """Make a key and add it to the file, which is made if there is none.

    Returns
    -------
    key : str
        To be shown once; it cannot be had again.
    stored : StoredKey

    Raises
    ------
    ApiKeyError
        If the name is none, the time is too short, or the file is damaged or cannot be
        written; it is then as it was.
    """
    if valid_for is not None and valid_for < _MINIMAL_EXPIRY:
        raise _refused("a key must be valid for a minute at least")
    fault = "is longer than 100 characters" if len(name) > 100 else name_fault(name)
    if fault is not None:
        raise _refused(f"its name {fault}")
    with _changing(path) as keys:
        if len(keys) >= MAX_KEYS:
            raise _refused(f"the file holds {MAX_KEYS:,} keys, which is the limit")
        taken = {key.id for key in keys}
        identity = next(each for each in iter(lambda: secrets.token_hex(6), "") if each not in taken)
        secret = f"tft_{identity}_{secrets.token_urlsafe(32)}"
        now = utc_now().replace(microsecond=0)
        try:
            expires = None if valid_for is None else now + valid_for
        except OverflowError:
            raise _refused("its end lies beyond the year 9999") from None
        stored = StoredKey(id=identity, name=name, scope=scope, sha256=_digest(secret), created=now, expires=expires)
        keys.append(stored)
    return secret, stored


def revoke_key(path: Path, key_id: str) -> StoredKey:
    """Mark a key as revoked; it stays in the file, so that what it did in the logs has a name.

    Raises
    ------
    ApiKeyError
        If there is no such key, or the file is damaged or cannot be written; it is then as it was.
    """
    with _changing(path) as keys:
        for position, key in enumerate(keys):
            if key.id == key_id:
                if key.revoked is None:
                    keys[position] = key.model_copy(update={"revoked": utc_now().replace(microsecond=0)})
                return keys[position]
        raise ApiKeyError(
            f"There is no key with the id {shorten(key_id)} in {path.name}.",
            why="Nothing was revoked: whoever has the key that you meant can still use it.",
            fix="`python main.py keys list` shows the ids; an id has 12 characters, such as 0f3a52c19b7e.",
        )


def list_keys(path: Path) -> list[StoredKey]:
    """All keys of the file, the oldest first; none if there is no file.

    Raises
    ------
    ApiKeyError
        If the file is damaged or cannot be read.
    """
    return _read(path) if os.path.lexists(path) else []


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[StoredKey]]:
    """Give the keys to change; the file is replaced whole when the block ends well. One change at a time."""
    shown, path = path, Path(os.path.realpath(path))  # the file would take the place of a link to it otherwise
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked_folder(path.parent) as folder:
            keys = list_keys(path)
            yield keys
            content = _KeyFile(format=_FORMAT, keys=keys).model_dump_json(indent=2) + "\n"
            with atomic_path(path, mode=0o600) as partial:
                partial.write_text(content, encoding="utf-8")
                if os.geteuid() == 0:  # root makes keys for the daemon, which must be able to read them
                    about = (path if path.exists() else path.parent).stat()
                    os.chown(partial, about.st_uid, about.st_gid)
            os.fsync(folder)  # a revoked key must not come back with the old file after a loss of power
    except OSError as error:
        raise ApiKeyError(
            f"{shown} cannot be written: {error.strerror or error}.",
            why="The file of the keys is as it was: nothing was added or revoked.",
            fix="Check the folder, its owner and the space on the disk; TFT_API_KEYS_FILE names another file.",
        ) from error


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _read(path: Path) -> list[StoredKey]:
    try:
        with path.open("rb") as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise _damaged(path, "it is no file")
            if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise _damaged(path, "others than its owner may write it, and so let themselves in (`chmod 600` it)")
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise _damaged(path, "it is not there") from error
    except OSError as error:
        raise _damaged(path, error.strerror or type(error).__name__) from error
    if len(content) > MAX_FILE_BYTES:
        raise _damaged(path, f"it is larger than {MAX_FILE_BYTES:,} bytes")
    try:
        keys = _KeyFile.model_validate(pydantic_core.from_json(content)).keys
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError as error:
        raise _damaged(path, f"it is no JSON ({error})") from None
    if len({key.id for key in keys}) < len(keys):
        raise _damaged(path, "two keys have one id")
    return keys


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _refused(reason: str) -> ApiKeyError:
    return ApiKeyError(
        f"The key was not made: {reason}.",
        why="The file of the keys is as it was: nobody got access.",
        fix="Correct the option; `python main.py keys create --help` lists them, `keys list` shows what there is.",
    )


def _damaged(path: Path, reason: str) -> ApiKeyError:
    return ApiKeyError(
        f"The file of API keys {path.name} cannot be used: {reason}.",
        why="Who may ask is not known without it, and a guess could let anybody in.",
        fix="Restore the file, or move it away and make new keys with `python main.py keys create`.",
    )


# ------------------------------------------------------------------------------------------------------- in the daemon
class KeyRing:
    """The keys of a file as a running daemon sees them.

    Without a file everything is open. A file that appears is in force within a second, as is every change of it. One
    that is damaged, or goes away, changes nothing: the keys that were read last stay in force, and `problem` says why.

    Parameters
    ----------
    path : Path
    required : bool
        Whether the file must be there.
    clock : callable
        Seconds; only the tests bring their own.

    Raises
    ------
    ApiKeyError
        If the file is there and cannot be used, or is required and not there.
    """

    def __init__(self, path: Path, *, required: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._keys: dict[str, StoredKey] | None = None
        self._next_look = clock() + CHECK_SECONDS
        self.problem: ApiKeyError | None = None
        self._seen = self._mark()
        if self._seen is not None or required:
            self._keys = {key.id: key for key in _read(path)}

    @property
    def protects(self) -> bool:
        """Whether a key is asked for."""
        self._look()
        return self._keys is not None

    def verify(self, presented: str) -> tuple[StoredKey | None, str]:
        """The key that was presented, if it is in force; else None and the reason: unknown, expired or revoked."""
        self._look()
        found = KEY_PATTERN.fullmatch(presented)
        known = (self._keys or {}).get(found[1]) if found else None
        same = hmac.compare_digest(known.sha256 if known else _NO_DIGEST, _digest(presented))
        if known is None or not same:
            return None, "unknown"
        return (known, "active") if known.state == "active" else (None, known.state)

    def in_force(self, key_id: str, needed: KeyScope) -> bool:
        """Whether a key that was verified earlier still opens what it opened then."""
        self._look()
        key = (self._keys or {}).get(key_id)
        return key is not None and key.state == "active" and key.allows(needed)

    def as_dict(self) -> dict[str, Any]:
        """The `access` part of /status."""
        self._look()
        return {
            "keys_required": self._keys is not None,
            "active_keys": sum(key.state == "active" for key in (self._keys or {}).values()),
            "problem": self.problem and self.problem.as_dict(),
        }

    def _look(self) -> None:
        """Read the file again if it has changed; at most once a second."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + CHECK_SECONDS
        mark = self._mark()
        if mark == self._seen:
            return
        self._seen = mark
        try:
            keys = {key.id: key for key in _read(self._path)}
        except ApiKeyError as error:
            self.problem = error
            if self._keys is None:
                self._keys = {}  # somebody meant to close the daemon: until it is known for whom, it is for nobody
            log.warning("API keys not read again, the former ones stay in force", reason=error.what)
            return
        self._keys = keys
        self.problem = None
        log.info("API keys read", active=sum(key.state == "active" for key in keys.values()))

    def _mark(self) -> tuple[int, ...] | None:
        """What changes when the file does, None if there is none."""
        try:
            about = self._path.stat()
        except FileNotFoundError:
            return (0,) if os.path.lexists(self._path) else None  # a link to nothing is damage, not absence
        except OSError:
            return (1,)
        return (about.st_ino, about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_mode)


def _self_check() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        assert not KeyRing(path).protects
        key, stored = create_key(path, "dashboard", "read")
        ring = KeyRing(path)
        assert ring.protects and ring.verify(key) == (stored, "active") and key not in path.read_text()
        assert stored.allows("read") and not stored.allows("write")
        assert ring.verify(key[:-1] + ("A" if key[-1] != "A" else "B")) == (None, "unknown")
        revoke_key(path, stored.id)
        assert KeyRing(path).verify(key) == (None, "revoked")
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
