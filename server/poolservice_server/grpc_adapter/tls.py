"""TLS: the server's certificate, and the CA of client certificates for mutual TLS."""

import grpc

from poolservice_server.settings import Settings, SettingsError, read_file


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Return the TLS credentials that the settings name, or None if they name none.

    With `tls_client_ca`, clients need a certificate of that CA (mutual TLS).

    Raises:
        SettingsError: a file cannot be read, or the certificate or its key is missing.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise SettingsError("TLS needs both tls_certificate and tls_key (--tls-certificate, --tls-key)")
    return grpc.ssl_server_credentials(
        [(read_file(key, "tls_key"), read_file(certificate, "tls_certificate"))],
        root_certificates=None if client_ca is None else read_file(client_ca, "tls_client_ca"),
        require_client_auth=client_ca is not None,
    )
