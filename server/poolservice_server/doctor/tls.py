"""The certificates and token files: whether they can be used, until when, and who else can read them."""

import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from poolservice_server.doctor.certificate import Certificate, UnknownEncoding, read_certificates
from poolservice_server.doctor.finding import Finding, ok, problem, warning
from poolservice_server.doctor.machine import Machine
from poolservice_server.settings import (
    SAFE_TOKEN_CHARACTERS,
    Settings,
    SettingsError,
    read_tls_files,
    read_tokens,
    short_tokens,
)

_RENEWAL = timedelta(days=14)


def check_certificates(settings: Settings, machine: Machine) -> Iterator[Finding]:
    """Check the certificate, its key, its chain and the CA of the clients, as the server will read them."""
    try:
        files = read_tls_files(settings)
    except SettingsError as error:
        yield problem("certificates", str(error))
        return
    if files is None:
        yield ok("certificates", "this configuration uses no TLS")
        return
    findings = [
        *_chain(f"--tls-certificate {settings.tls_certificate}", files.certificate, machine),
        *_authority(settings.tls_client_ca, files.client_ca, machine),
    ]
    yield from findings
    if not findings:
        (first, *_) = read_certificates(files.certificate.decode("ascii", "replace"))
        yield ok(
            "certificates", f"{settings.tls_certificate} fits its key and is valid until {first.not_after:%Y-%m-%d}"
        )


def check_secrets(settings: Settings, _machine: Machine) -> Iterator[Finding]:
    """Check the files with tokens and keys: their contents and who may read and write them."""
    healthy = True
    for path, flag in (
        (settings.auth_token_file, "--auth-token-file"),
        (settings.metrics_token_file, "--metrics-token-file"),
    ):
        if path is None:
            continue
        try:
            read_tokens(path, flag)
        except SettingsError as error:
            healthy = False
            yield problem("secrets", str(error))
            continue
        for number in short_tokens(path, flag):
            healthy = False
            yield warning(
                "secrets",
                f"the token in line {number} of {flag} {path} has fewer than {SAFE_TOKEN_CHARACTERS} characters, so it "
                "can be guessed; make a new one with: openssl rand -hex 32",
            )
    secrets = {
        "--auth-token-file": settings.auth_token_file,
        "--metrics-token-file": settings.metrics_token_file,
        "--tls-key": settings.tls_key,
    }
    for flag, path in secrets.items():
        if path is not None and path.exists():
            for finding in _permissions(path, flag):
                healthy = False
                yield finding
    if healthy and any(secrets.values()):
        yield ok("secrets", "other users can neither read nor write the files with tokens and keys")


def _permissions(path: Path, flag: str) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IWOTH:
        yield problem(
            "secrets",
            f"every user of this machine can write to {flag} {path} (mode {mode:o}), and so let themselves in; run: "
            f"chmod 600 {path}",
        )
    elif mode & stat.S_IROTH:
        yield warning(
            "secrets", f"every user of this machine can read {flag} {path} (mode {mode:o}); run: chmod 600 {path}"
        )


def _chain(name: str, content: bytes, machine: Machine) -> Iterator[Finding]:
    try:
        certificates = read_certificates(content.decode("ascii", "replace"))
    except UnknownEncoding as error:
        yield warning("certificates", f"the dates of {name} cannot be read: {error}")
        return
    yield from _dates(name, certificates, machine)
    for number, (one, issuer) in enumerate(pairwise(certificates), 1):
        if one.issuer != issuer.subject:
            yield problem(
                "certificates",
                f"certificate {number + 1} in {name} did not issue certificate {number}, so clients trust neither; "
                "write the server's own certificate first, and behind each one the one that issued it",
            )


def _authority(path: Path | None, content: bytes | None, machine: Machine) -> Iterator[Finding]:
    if path is None or content is None:
        return
    name = f"--tls-client-ca {path}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(cadata=content.decode("ascii", "replace"))
    if not context.cert_store_stats()["x509_ca"]:
        yield problem(
            "certificates",
            f"{name} has no certificate of a CA, so no client can be verified; name the CA's certificate, not a "
            "client's",
        )
    try:
        yield from _dates(name, read_certificates(content.decode("ascii", "replace")), machine)
    except UnknownEncoding as error:
        yield warning("certificates", f"the dates of {name} cannot be read: {error}")


def _dates(name: str, certificates: list[Certificate], machine: Machine) -> Iterator[Finding]:
    now = datetime.fromtimestamp(machine.now(), UTC)
    for number, certificate in enumerate(certificates, 1):
        which = name if len(certificates) == 1 else f"certificate {number} in {name}"
        if certificate.not_after <= now:
            yield problem(
                "certificates",
                f"{which} expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC, and clients refuse it; renew it (the "
                "server reads the new file without a restart)",
            )
        elif certificate.not_before > now:
            yield problem(
                "certificates",
                f"{which} is valid from {certificate.not_before:%Y-%m-%d %H:%M} UTC only, and this machine's "
                f"clock says {now:%Y-%m-%d %H:%M}; correct the clock, or wait",
            )
        elif certificate.not_after - now < _RENEWAL:
            yield warning(
                "certificates",
                f"{which} expires on {certificate.not_after:%Y-%m-%d %H:%M} UTC, in less than {_RENEWAL.days} days; "
                "renew it (the server reads the new file without a restart)",
            )
