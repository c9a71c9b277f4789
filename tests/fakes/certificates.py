"""Certificates for tests, by `openssl`: of a CA of their own, which is made where there is none."""

import subprocess
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def certify(folder: Path, name: str, subject: str) -> None:
    """`NAME.pem` and `NAME.key` in a folder, for a subject alternative name; beside them `ca.pem`."""
    if not (folder / "ca.pem").exists():
        _openssl(
            folder,
            *("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"),
            *("-subj", "/CN=test CA", "-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=critical,keyCertSign"),
        )
    (folder / f"{name}.extensions").write_text(f"subjectAltName={subject}\n")
    _openssl(
        folder,
        *("req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"),
    )
    _openssl(
        folder,
        *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
        *("-days", "2", "-CAcreateserial", "-extfile", f"{name}.extensions"),
        *("-out", f"{name}.pem"),
    )


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
