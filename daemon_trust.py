"""Whose certificates our own programs take for the daemon's: the system's authorities, or the one that is set.

For a daemon whose certificate is self-signed or of a private authority. Certificates are always checked; there is no
setting that leaves it out. Knows nothing of what is asked over the connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from data_contract import ConfigurationError

UNTRUSTED_WHY: Final = "Somebody else could pretend to be the daemon, and would be sent the API key and all rows."
UNTRUSTED_FIX: Final = (
    "Set TFT_DAEMON_CA_FILE to a copy of the daemon's certificate, or of the authority's that signed it (PEM), and ask "
    "at an address that the certificate names."
)


def trust_of(ca_file: Path | None) -> ssl.SSLContext | bool:
    """What httpx takes as `verify`.

    Parameters
    ----------
    ca_file : Path or None
        PEM with the only certificates to trust: the daemon's own, or those of authorities. None: the usual ones.

    Raises
    ------
    ConfigurationError
        If the file cannot be read or holds no certificate.
    """
    if ca_file is None:
        return True
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ConfigurationError(
            f"daemon_ca_file is {ca_file}, which holds no certificate that can be read: {reason}.",
            why="Without it the daemon cannot be told from somebody who pretends to be it.",
            fix="Set TFT_DAEMON_CA_FILE to the daemon's certificate, or to its authority's, as PEM; not to its key.",
            document="Docs/DAEMON.md",
        ) from error
    # The daemon's own certificate may be named though an authority has signed it
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def certificate_fault(error: BaseException) -> str | None:
    """What is wrong with the certificate, if that is why there is no connection.

    Parameters
    ----------
    error : BaseException
        What httpx raised, which says it somewhere among its causes.
    """
    for each in _causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return each.verify_message.rstrip(".")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    seen: set[int] = set()
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _self_check() -> None:
    assert trust_of(None) is True
    assert certificate_fault(OSError("refused")) is None
    try:
        trust_of(Path("absent.pem"))
    except ConfigurationError as error:
        assert "TFT_DAEMON_CA_FILE" in error.fix
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
