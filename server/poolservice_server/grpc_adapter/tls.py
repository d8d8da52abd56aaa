"""TLS: the server's certificate and the CA of client certificates, which both follow changes of their files."""

import grpc

from poolservice_server.file_watch import FileWatch
from poolservice_server.settings import Settings, read_tls_files, tls_paths


def server_credentials(settings: Settings, watch: FileWatch) -> grpc.ServerCredentials | None:
    """Return the TLS credentials that the settings name, or None if they name none.

    With `tls_client_ca`, clients need a certificate of that CA (mutual TLS). New connections use the files as they are
    then; open connections keep the certificates of their handshake. Keep the credentials as long as the server: gRPC's
    core refers to them without owning them.

    Raises:
        SettingsError: a file cannot be read or used, or one is missing.
    """
    paths = tls_paths(settings)
    if not paths:
        return None
    certificates = _Certificates(settings)
    watch.add("tls", paths, certificates.load)
    return grpc.dynamic_ssl_server_credentials(
        certificates.current,
        certificates.take,  # type: ignore[arg-type] # None is allowed and means no change
        settings.tls_client_ca is not None,
    )


class _Certificates:
    """The certificates of the next handshakes.

    Attributes:
        current: the certificates that were loaded last.
    """

    current: grpc.ServerCertificateConfiguration

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_new = False

    def load(self) -> None:
        """Read the files."""
        files = read_tls_files(self._settings)
        if files is not None:
            self.current = grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.client_ca)
            self._is_new = True

    def take(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the certificates if gRPC's core does not have them yet, else None. It asks before each handshake."""
        is_new, self._is_new = self._is_new, False
        return self.current if is_new else None
