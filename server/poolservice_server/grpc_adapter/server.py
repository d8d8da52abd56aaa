"""The gRPC server of one process: its methods, health, reflection and address; start and stop."""

from collections.abc import Mapping

import grpc.aio
from grpc_reflection.v1alpha import reflection

from poolservice_server.backbones.backbone import NO_BACKBONES, Backbones
from poolservice_server.core.call_record import CallObserver
from poolservice_server.core.service import PoolService
from poolservice_server.file_watch import FileWatch
from poolservice_server.grpc_adapter.active_calls import ActiveCalls
from poolservice_server.grpc_adapter.auth import token_authenticator
from poolservice_server.grpc_adapter.caller import CallerNames
from poolservice_server.grpc_adapter.channelz import add_channelz
from poolservice_server.grpc_adapter.connections import close_connections
from poolservice_server.grpc_adapter.health import HEALTH_SERVICE_NAME, HealthService
from poolservice_server.grpc_adapter.options import server_options
from poolservice_server.grpc_adapter.servicer import SERVICE_NAME, PoolServicer
from poolservice_server.grpc_adapter.tls import server_credentials
from poolservice_server.readiness import Readiness
from poolservice_server.settings import Settings, SettingsError


class GrpcServer:
    """The gRPC server of one process. Create it in the running event loop.

    Args:
        settings: the server's settings.
        service: the core.
        observe: called with the record of each call that has ended.
        watch: reads the token file and the TLS files again when they change.
        readiness: the readiness that health checks report.
        backbones: each has a health status of its own.
        shared_port: True if other worker processes listen on the same port.
        always_sends_id: see `PoolServicer`.

    Raises:
        SettingsError: the token file or a TLS file cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        service: PoolService,
        observe: CallObserver,
        watch: FileWatch,
        readiness: Readiness,
        backbones: Backbones = NO_BACKBONES,
        *,
        shared_port: bool,
        always_sends_id: bool = False,
    ) -> None:
        self._address = settings.address
        self._credentials = server_credentials(settings, watch)
        self._calls = ActiveCalls(
            receive_timeout=settings.receive_timeout,
            send_timeout=settings.send_timeout,
            max_calls=settings.max_calls,
            caller_max_calls=settings.largest_caller_calls,
            is_short_of_memory=service.unread_responses_exceed_half_the_queue,
        )
        callers = CallerNames(
            token_authenticator(settings, watch), client_certificates=settings.tls_client_ca is not None
        )
        self._servicer = PoolServicer(service, observe, callers, self._calls, always_sends_id=always_sends_id)
        self._server = _create_server(settings, self._calls, shared_port=shared_port)
        self._servicer.add_to(self._server)
        self._health = HealthService(readiness, backbones, callers.caller_of, max_watches=settings.max_connections)
        self._health.add_to(self._server)
        services = [SERVICE_NAME, HEALTH_SERVICE_NAME, reflection.SERVICE_NAME]
        if settings.channelz:
            services.append(add_channelz(self._server, callers.caller_of))
        reflection.enable_server_reflection(services, self._server)

    @property
    def calls_in_progress(self) -> int:
        """Calls that have started and not ended."""
        return self._servicer.in_progress

    @property
    def refusals(self) -> Mapping[str, int]:
        """The numbers of calls that were refused, by reason; see `ActiveCalls`."""
        return self._calls.refusals

    async def start(self) -> str:
        """Listen and accept calls.

        Returns:
            The address, with the port that was chosen for port 0.

        Raises:
            SettingsError: the server cannot listen on the address.
        """
        self._address = self._listen()
        await self._server.start()
        return self._address

    async def report_not_serving(self) -> None:
        """Report NOT_SERVING to health checks, so that load balancers choose another server."""
        await self._health.drain()

    async def stop(self, grace_period: float | None) -> None:
        """Refuse new calls, and end the active calls after `grace_period` seconds, or immediately for None."""
        await self._calls.stop(grace_period or 0.0)
        await close_connections(self._address)
        await self._server.stop(None)

    async def wait_for_termination(self) -> None:
        """Wait until the server has ended, because of `stop` or by itself.

        Do not cancel the wait: grpc.aio would end the server.
        """
        await self._server.wait_for_termination()

    def _listen(self) -> str:
        address = self._address
        try:
            port = (
                self._server.add_insecure_port(address)
                if self._credentials is None
                else self._server.add_secure_port(address, self._credentials)
            )
        except RuntimeError:
            raise SettingsError(
                f"cannot listen on {address} (--address): the port may be in use, the host may not be an address of "
                "this machine, or the port may need more privileges"
            ) from None
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _create_server(settings: Settings, calls: ActiveCalls, *, shared_port: bool) -> grpc.aio.Server:
    options = server_options(settings, shared_port=shared_port)
    if settings.plain_server:
        return grpc.aio.server(options=options)
    # Imported here because it needs private names of grpcio, which not every release has (see private_names).
    from poolservice_server.grpc_adapter import multi_accept_server

    return multi_accept_server.create_server(options, calls.ended)
