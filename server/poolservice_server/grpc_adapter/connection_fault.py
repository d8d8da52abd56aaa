"""Why a client cannot connect to a server, in words; gRPC's own errors name neither the cause nor a remedy.

It connects a second time, with Python's own sockets and TLS.
"""

import socket
import ssl
from pathlib import Path
from typing import NamedTuple

# OpenSSL's numbers for a certificate of another host name, and of another IP address.
_OTHER_HOST = (62, 64)

# OpenSSL's errors about a response that is not TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")

_PROBE_SECONDS = 1.0


class TlsOptions(NamedTuple):
    """How a client connects with TLS.

    Attributes:
        ca: file of the CA, or of the server's certificate.
        server_name: the name that the server's certificate must have; None: the address's host.
        certificate, key: files of the client's certificate and key; None without them.
    """

    ca: Path
    server_name: str | None
    certificate: Path | None
    key: Path | None


class UnusableFile(Exception):
    """A TLS file of the client cannot be used. The message names it."""


def tls_context(options: TlsOptions) -> ssl.SSLContext:
    """Return the context of a client's connection.

    Raises:
        OSError: a file cannot be read.
        UnusableFile: a file has another content.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As for gRPC, the server's own certificate is enough.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=options.ca.read_bytes().decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise UnusableFile(f"--ca {options.ca} has no certificate in PEM, or a damaged one") from None
    if options.certificate is not None and options.key is not None:
        # These report a missing file with its name; load_cert_chain does not.
        options.certificate.read_bytes()
        options.key.read_bytes()
        try:
            # With a password, an encrypted key is an error instead of a question on the terminal.
            context.load_cert_chain(options.certificate, options.key, password=b"")
        except (ssl.SSLError, ValueError):
            raise UnusableFile(
                f"--client-certificate {options.certificate} and --client-key {options.key} cannot be used together: "
                "one of them is damaged, encrypted, or belongs to another one"
            ) from None
    return context


def connection_fault(address: str, options: TlsOptions | None) -> str | None:
    """Connect to HOST:PORT or unix:PATH, with TLS if there are options for it; return what fails, or None."""
    try:
        with _connected(address) as connection:
            return _plain_fault(connection) if options is None else _tls_fault(connection, address, options)
    except TimeoutError:
        return None
    except OSError as error:
        return error.strerror or str(error)


def _connected(address: str) -> socket.socket:
    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_PROBE_SECONDS)
    try:
        connection.connect(address.removeprefix("unix:").removeprefix("//"))
    except OSError:
        connection.close()
        raise
    return connection


def _plain_fault(connection: socket.socket) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(connection):
            return "the server uses TLS; give its certificate, or that of its CA, with --ca (POOLSERVICE_CA)"
    except (ssl.SSLError, ConnectionError):
        # The server has no TLS either.
        return None


def _tls_fault(connection: socket.socket, address: str, options: TlsOptions) -> str | None:
    context = tls_context(options)
    context.set_alpn_protocols(["h2"])
    name = options.server_name or address.rpartition(":")[0].strip("[]")
    try:
        with context.wrap_socket(connection, server_hostname=name) as encrypted:
            # In TLS 1.3, the server checks the client's certificate after the client's part of the handshake.
            return None if encrypted.recv(1) else _refusal(options)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OTHER_HOST:
            return f"the server's certificate is not for {name}; give a name that it has with --server-name"
        return f"the server's certificate is not one of --ca {options.ca}: {error.verify_message}"
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        if reason in _NO_TLS:
            return _WITHOUT_TLS
        if "ALERT" not in reason:
            return f"TLS fails: {_words(reason)}"
        return f"{_refusal(options)}: {_words(reason)}"
    except ConnectionError:
        return _WITHOUT_TLS


def _refusal(options: TlsOptions) -> str:
    """Return why a server ends a connection after the client's part of the handshake."""
    if options.certificate is not None:
        return f"the server refuses --client-certificate {options.certificate}"
    return (
        "the server ends the connection after the handshake, as one that requires a client certificate does; give it "
        "with --client-certificate and --client-key"
    )


_WITHOUT_TLS = "the server uses no TLS; leave out --ca (POOLSERVICE_CA)"


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")
