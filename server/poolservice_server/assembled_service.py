"""The core of one serving process, assembled from the settings: batcher, image threads, decoder processes, service."""

from concurrent.futures import ThreadPoolExecutor

from poolservice_server import batch_log, images, server_info
from poolservice_server.backbones.backbone import Backbones
from poolservice_server.backend import Backend, choose_backend
from poolservice_server.backend.device import NoDevice
from poolservice_server.batcher import Batcher, Quotas
from poolservice_server.core.request_record import RequestObserver, ignore_request
from poolservice_server.core.service import PoolService
from poolservice_server.images.decode_processes import DecodeProcesses
from poolservice_server.pool_heads.head import PoolHeads
from poolservice_server.settings import Settings, SettingsError
from poolservice_server.stage_cost import calibrate

# Long enough to make the fixed cost of a batch negligible, also on a GPU.
_MAX_BATCH_SECONDS = 0.02

# How much decoding the threads are given ahead. Another caller's image waits behind it, so it is short. With nothing
# ahead, the threads are idle whenever the event loop is busy: J2 had 0.80 of its throughput with 8 and 32 callers, with
# 10 ms ahead 0.91 with 32 callers, and with 20 ms all of it.
_PREPARE_AHEAD_SECONDS = 0.02

_NO_LIMIT = float("inf")


def open_backend(settings: Settings) -> Backend:
    """Return the devices that the settings name.

    Raises:
        SettingsError: the device does not exist.
    """
    try:
        return choose_backend(
            settings.device, require_gpu=settings.require_gpu, max_batch_bytes=settings.max_batch_bytes
        )
    except NoDevice as error:
        raise SettingsError(f"{error} (--device, --require-gpu)") from None


class AssembledService:
    """The core of one serving process. Create it in the running event loop.

    Args:
        settings: the server's settings.
        backend: its devices.
        backbones: its backbones.
        pool_heads: its pool heads.
        worker: the number of this process among the workers.
        cores: the number of cores that this process may use.
        observe: called with the record of each request that has ended.

    Attributes:
        batcher: runs the requests.
        service: the methods of the contract.
    """

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        backbones: Backbones,
        pool_heads: PoolHeads,
        *,
        worker: int,
        cores: int,
        observe: RequestObserver = ignore_request,
    ) -> None:
        decode_threads = settings.decode_threads or cores
        self.batcher = Batcher(
            batch_log.logged(backend.run),
            max_batch_size=settings.max_batch_size,
            max_batch_bytes=settings.max_batch_bytes,
            max_batch_seconds=_MAX_BATCH_SECONDS,
            max_batch_delay=settings.max_batch_delay,
            max_queue_items=settings.max_queue_items,
            max_queue_bytes=settings.max_queue_bytes,
            quotas=Quotas(
                settings.largest_caller_requests,
                settings.largest_caller_bytes,
                settings.caller_max_seconds or _NO_LIMIT,
                settings.caller_max_rate or _NO_LIMIT,
            ),
            prepare_threads=decode_threads,
            prepare_ahead_seconds=_PREPARE_AHEAD_SECONDS,
            threads=settings.threads or backend.concurrency(cores),
            inline_bytes=backend.inline_bytes,
        )
        # One more than the slots, for short work while long work has all slots.
        self._image_threads = ThreadPoolExecutor(decode_threads + 1, thread_name_prefix="decode")
        self._decode_processes = DecodeProcesses(decode_threads) if settings.decode_isolation == "process" else None
        self.service = PoolService(
            self.batcher,
            self._image_threads,
            server_info.responder(settings, backend, worker=worker, backbones=backbones, pool_heads=pool_heads),
            max_message_bytes=settings.max_message_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_queue_bytes=settings.max_queue_bytes,
            max_unread_bytes=settings.max_unread_bytes,
            max_request_seconds=settings.max_request_seconds,
            seconds_per_step=calibrate(),
            decode=self._decode_processes.decode_scanned if self._decode_processes else images.decode_scanned,
            backbones=backbones,
            batches_backbone=backend.batches_backbone,
            pool_heads=pool_heads,
            observe=observe,
        )

    def close(self) -> None:
        """End the image threads and the decoder processes, without waiting for what they do."""
        self._image_threads.shutdown(wait=False, cancel_futures=True)
        if self._decode_processes:
            self._decode_processes.close()
