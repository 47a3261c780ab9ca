"""Which id a server name has: stable SHA-256 ids, collisions resolved deterministically, names given back exactly.

`server_mapping.json` is the record: `{"name_to_id": {...}, "id_to_name": {...}}`. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from common_utils import write_json
from data_contract import ContractError, UnknownServerIdError, shorten

ID_SPACE = 1_000_000


def hash_id(name: str, attempt: int = 0) -> str:
    """Id that a name asks for.

    `str(int(sha256(name)[:8], 16) % 1_000_000)`, the first 8 hex digits. Attempt 0 is the owner's formula; a later
    attempt, used only when that id is already another server's, hashes `name`, a NUL byte (which no server name may
    hold) and the attempt's number.

    Examples
    --------
    >>> hash_id("ppvra00a01")
    '242378'
    """
    text = name if attempt == 0 else f"{name}\0{attempt}"
    return str(int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8], 16) % ID_SPACE)


class ServerEncoder:
    """Stable ids for server names.

    A name in the mapping keeps its id for ever, whoever comes or goes. New names are placed in sorted order, so that
    the same set of names gives the same mapping whatever order it came in; where two names ask for one id, the one
    that is in the mapping already (or, among new ones, sorts first) has it, and the other takes the next free id of
    its own sequence `hash_id(name, 1)`, `hash_id(name, 2)`, ….

    Parameters
    ----------
    mapping_file : path, optional
        A `server_mapping.json` to start from.

    Raises
    ------
    ContractError
        If the mapping file is unreadable or contradicts itself.
    """

    def __init__(self, mapping_file: str | os.PathLike[str] | None = None) -> None:
        self._name_to_id: dict[str, str] = {}
        self._id_to_name: dict[str, str] = {}
        if mapping_file is not None:
            self._load(Path(mapping_file))

    def __len__(self) -> int:
        return len(self._name_to_id)

    def __contains__(self, name: object) -> bool:
        return name in self._name_to_id

    @property
    def name_to_id(self) -> dict[str, str]:
        """Copy of the mapping from names to ids."""
        return dict(self._name_to_id)

    def create_mapping(self, names: Iterable[str]) -> dict[str, str]:
        """Add names to the mapping and return the whole of it; names that are in it already keep their ids.

        Raises
        ------
        ContractError
            If a name is empty or holds a NUL byte, or if there are more names than ids.
        """
        new = sorted(set(names) - self._name_to_id.keys())
        wrong = [name for name in new if not name or "\0" in name]
        if wrong:
            raise ContractError(
                f"Server names must not be empty or hold NUL bytes: {shorten(wrong)}.",
                why="Every forecast is addressed by its server's name.",
                fix="Name the servers in the source, then import or post it again.",
            )
        if len(self) + len(new) > ID_SPACE:
            raise ContractError(
                f"{len(self) + len(new):,} servers do not fit into {ID_SPACE:,} ids.",
                why="Ids are distinct, so that two servers are never taken for one.",
                fix="Split the fleet into several models.",
            )
        for name in new:
            server_id = self._free_id(name)
            self._name_to_id[name] = server_id
            self._id_to_name[server_id] = name
        return self.name_to_id

    def encode(self, name: str) -> str:
        """Id of a name.

        A name that is not in the mapping gets the stable id that it would be given if it were added now, which never
        is a known server's; the mapping stays as it is.
        """
        return self._name_to_id.get(name) or self._free_id(name)

    def decode(self, server_id: str) -> str:
        """Name of an id.

        Raises
        ------
        UnknownServerIdError
            If no server of the mapping has this id.
        """
        try:
            return self._id_to_name[server_id]
        except KeyError:
            raise UnknownServerIdError(
                f"No server of the mapping has the id {server_id!r}.",
                why="Ids are always decoded before anything leaves the system, so a foreign id cannot be shown.",
                fix="Use the server_mapping.json that belongs to this model; names outside it have no id to decode.",
            ) from None

    def save_mapping(self, path: str | os.PathLike[str]) -> None:
        """Write `server_mapping.json` atomically, sorted by name."""
        names = dict(sorted(self._name_to_id.items()))
        write_json(path, {"name_to_id": names, "id_to_name": {i: n for n, i in names.items()}})

    def _free_id(self, name: str) -> str:
        return next(i for attempt in count() if (i := hash_id(name, attempt)) not in self._id_to_name)

    def _load(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            name_to_id = {str(name): str(server_id) for name, server_id in content["name_to_id"].items()}
            id_to_name = {str(server_id): str(name) for server_id, name in content["id_to_name"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._bad_file(path, f"it cannot be read as a mapping ({type(error).__name__}: {error})") from error
        if {server_id: name for name, server_id in name_to_id.items()} != id_to_name or len(name_to_id) != len(
            id_to_name
        ):
            raise self._bad_file(path, "`name_to_id` and `id_to_name` contradict each other")
        odd = [i for i in id_to_name if not (i.isascii() and i.isdigit() and int(i) < ID_SPACE and str(int(i)) == i)]
        if odd:
            raise self._bad_file(path, f"ids are not whole numbers below {ID_SPACE:,}: {shorten(odd)}")
        self._name_to_id, self._id_to_name = name_to_id, id_to_name

    @staticmethod
    def _bad_file(path: Path, reason: str) -> ContractError:
        return ContractError(
            f"{path} is no usable server mapping: {reason}.",
            why="Without the mapping, ids cannot be decoded, and servers could be taken for one another.",
            fix='Restore the file that was saved with the model: {"name_to_id": {...}, "id_to_name": {...}}.',
            document="Docs/UNKNOWN_SERVER_HANDLING.md",
        )


def _self_check() -> None:
    assert hash_id("ppvra00a01") == "242378" and hash_id("pprva00a01") == "957601"
    encoder = ServerEncoder()
    encoder.create_mapping(["ppweb818", "ppweb953"])  # both ask for the same id
    assert hash_id("ppweb818") == hash_id("ppweb953") and encoder.encode("ppweb818") != encoder.encode("ppweb953")
    before = encoder.name_to_id
    encoder.create_mapping(f"ppml{number:04d}" for number in range(2_000))
    assert all(encoder.decode(server_id) == name for name, server_id in encoder.name_to_id.items())
    assert all(encoder.encode(name) == server_id for name, server_id in before.items())
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
