"""PoolBatches, which Ray Data calls for each batch of rows."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from poolservice.errors import InvalidRequest
from poolservice.specs import PoolSpec
from poolservice_client._clients.blocking import PoolClient
from poolservice_client._map.map_item import MapItem
from poolservice_client._request.options import PoolOptions
from poolservice_client._suggestions import is_choice, suggestion

Batch: TypeAlias = Mapping[str, Any]

# The client of each PoolBatches in this process. Ray unpickles the object anew for each task, and all copies in a
# process share one client.
_clients: dict[str, PoolClient] = {}


class PoolBatches:
    """A callable for `ray.data.Dataset.map_batches` that adds a column with the results of the service.

    It holds one client for each process. A batch is sent in messages of several rows, at most `in_flight` rows at a
    time. If the service is full, the batch waits until the service accepts further rows, and Ray starts no further
    batches meanwhile. Calls that fail because a server is lost are retried.

    Pass the object, and Ray runs it in tasks; or pass the class with `fn_constructor_args` and
    `fn_constructor_kwargs`, and Ray runs it in actors, each with a client that stays connected.

    Args:
        address: where the service is; see PoolClient.
        specs: the pooling spec; None for the output of a backbone as it is.
        column: the column with the inputs: the bytes of image files, paths that the workers can read, or arrays.
        output_column: the column to add.
        on_error: "raise" ends the job with the first row that fails. "null" gives such a row a null in `output_column`
            and the reason in `error_column`; it needs output="features", whose results are vectors.
        error_column: the column with the reason why a row failed, null for a row that did not; only with
            on_error="null".
        in_flight: the most rows of a batch that are sent and have no result yet. Default: as in `PoolClient.map`.
        client: keywords for PoolClient, such as {"token": ..., "tls": True}.
        options: keywords of `PoolClient.map`: output, normalize, dtype, color_mode, layout, backbone, tap, timeout.

    Raises:
        InvalidRequest: an argument is invalid.

    Example:
        >>> images = ray.data.read_binary_files("photos", include_paths=True)
        >>> pool = PoolBatches("pool:50051", GlobalAvgPool2d(), column="bytes", output="features")
        >>> images.map_batches(pool, batch_size=256, concurrency=4).drop_columns(["bytes"]).write_parquet("features")
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        specs: PoolSpec | None = None,
        *,
        column: str,
        output_column: str = "features",
        on_error: Literal["raise", "null"] = "raise",
        error_column: str = "error",
        in_flight: int | None = None,
        client: Mapping[str, Any] | None = None,
        **options: Unpack[PoolOptions],
    ) -> None:
        if not is_choice(on_error, ("raise", "null")):
            raise InvalidRequest(
                f'must be "raise" or "null"; got {on_error!r}{suggestion(on_error, ("raise", "null"))}',
                field="on_error",
            )
        if on_error == "null" and options.get("output") != "features":
            raise InvalidRequest(
                '"null" needs output="features": only a column of vectors has nulls beside its values', field="on_error"
            )
        if specs is not None and not isinstance(specs, PoolSpec):
            raise InvalidRequest(f"must be one spec, which gives one column; got {specs!r}", field="specs")
        self._specs = specs
        self._column = column
        self._output_column = output_column
        self._error_column = error_column if on_error == "null" else None
        self._options: dict[str, Any] = {**options, "in_flight": in_flight}
        self._key = uuid.uuid4().hex
        self._client = PoolClient(address, **(client or {}))
        # Checks the options now and not in a worker.
        self._results([])
        _clients[self._key] = self._client

    def __call__(self, batch: Batch) -> dict[str, Any]:
        """Return the batch with the results of its rows.

        Args:
            batch: a column of values for each name, as Ray passes it with batch_format="numpy", its default.

        Raises:
            InvalidRequest: the batch does not have the column, or a row is wrong.
            PoolError: a row failed, and on_error is "raise".
        """
        if self._column not in batch:
            raise InvalidRequest(
                f"there is no column {self._column!r}{suggestion(self._column, list(batch))}; "
                f"the batch has {', '.join(batch)}",
                field="column",
            )
        items = self._results(batch[self._column])
        if self._error_column is None:
            return {**batch, self._output_column: _stacked([item.result for item in items])}
        errors = [None if item.error is None else str(item.error) for item in items]
        return {**batch, self._output_column: self._vectors(items), self._error_column: _strings(errors)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._client = _clients.setdefault(self._key, self._client)

    def _results(self, inputs: Any) -> list[MapItem[Any]]:
        items = []
        # Typed loosely, because no overload takes options that are only known at run time.
        map_rows: Any = self._client.map
        for item in map_rows(inputs, self._specs, items=True, **self._options):
            if item.error is not None and self._error_column is None:
                raise item.error
            items.append(item)
        return items

    def _vectors(self, items: list[MapItem[Any]]) -> Any:
        """Return an Arrow array of vectors and nulls, whose type does not depend on which rows failed."""
        import pyarrow as pa

        dtype = np.float16 if self._options.get("dtype") == "float16" else np.float32
        dtypes = {item.result.dtype for item in items if item.result is not None} or {np.dtype(dtype)}
        values = [item.result for item in items]
        return pa.array(values, pa.list_(pa.from_numpy_dtype(np.result_type(*dtypes))))


def _strings(values: list[str | None]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())


def _stacked(results: list[Any]) -> NDArray[Any]:
    """Return the results as one array, or as an array of arrays if they have several shapes."""
    if len({result.shape for result in results}) == 1:
        return np.stack(results)
    column = np.empty(len(results), object)
    column[:] = results
    return column
