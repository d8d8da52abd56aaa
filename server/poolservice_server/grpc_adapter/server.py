"""The gRPC server of one process: its methods, health, reflection and address; start and stop."""

from collections.abc import Mapping

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from poolservice_server.backbones.backbone import NO_BACKBONES, Backbones
from poolservice_server.core.call_record import CallObserver
from poolservice_server.core.service import PoolService
from poolservice_server.file_watch import FileWatch
from poolservice_server.grpc_adapter.active_calls import ActiveCalls
from poolservice_server.grpc_adapter.auth import token_authenticator
from poolservice_server.grpc_adapter.caller import CallerNames
from poolservice_server.grpc_adapter.connections import close_connections
from poolservice_server.grpc_adapter.options import server_options
from poolservice_server.grpc_adapter.servicer import SERVICE_NAME, PoolServicer
from poolservice_server.grpc_adapter.tls import server_credentials
from poolservice_server.settings import Settings, SettingsError

# A health check names the service, or nothing for the server as a whole.
_HEALTH_NAMES = ("", SERVICE_NAME)


class GrpcServer:
    """The gRPC server of one process. Create it in the running event loop.

    Args:
        settings: the server's settings.
        service: the core.
        observe: called with the record of each call that has ended.
        watch: reads the token file and the TLS files again when they change.
        backbones: each has a health status of its own under the name "backbone/NAME".
        shared_port: True if other worker processes listen on the same port.

    Raises:
        SettingsError: the token file or a TLS file cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        service: PoolService,
        observe: CallObserver,
        watch: FileWatch,
        backbones: Backbones = NO_BACKBONES,
        *,
        shared_port: bool,
    ) -> None:
        self._address = settings.address
        self._credentials = server_credentials(settings, watch)
        self._health = health.aio.HealthServicer()
        self._serving = (*_HEALTH_NAMES, *map(_health_name, backbones.serving))
        # A broken folder may have the name of a backbone that serves.
        self._broken = [_health_name(one.name) for one in backbones.broken if one.name not in backbones.serving]
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
        self._servicer = PoolServicer(service, observe, callers, self._calls)
        self._server = _create_server(settings, self._calls, shared_port=shared_port)
        self._servicer.add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    @property
    def calls_in_progress(self) -> int:
        """Calls that have started and not ended."""
        return self._servicer.in_progress

    @property
    def refusals(self) -> Mapping[str, int]:
        """The numbers of calls that were refused, by reason; see `ActiveCalls`."""
        return self._calls.refusals

    async def start(self) -> str:
        """Listen, accept calls and report SERVING.

        Returns:
            The address, with the port that was chosen for port 0.

        Raises:
            SettingsError: the server cannot listen on the address.
        """
        self._address = self._listen()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        for name in self._broken:
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        return self._address

    async def report_not_serving(self) -> None:
        """Report NOT_SERVING to health checks, so that load balancers choose another server."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

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

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in self._serving:
            await self._health.set(name, status)


def _health_name(backbone: str) -> str:
    return f"backbone/{backbone}"


def _create_server(settings: Settings, calls: ActiveCalls, *, shared_port: bool) -> grpc.aio.Server:
    options = server_options(settings, shared_port=shared_port)
    if settings.plain_server:
        return grpc.aio.server(options=options)
    # Imported here because it needs private names of grpcio, which not every release has (see private_names).
    from poolservice_server.grpc_adapter import multi_accept_server

    return multi_accept_server.create_server(options, calls.ended)
