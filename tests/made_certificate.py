"""Certificates that openssl makes, self-signed, as an operator would."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path, names: str = "IP:127.0.0.1") -> tuple[Path, Path]:
    """A self-signed certificate for the names, and its key; skips where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt-get install openssl")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*command, *("-keyout", key, "-out", certificate, "-subj", "/CN=tft", "-addext", f"subjectAltName={names}")],
        check=True,
        capture_output=True,
    )
    return certificate, key
