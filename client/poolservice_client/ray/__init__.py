"""Ray Data jobs that call the service.

    pool = PoolBatches("dns:///pool:50051", GlobalAvgPool2d(), column="image", output="features")
    dataset.map_batches(pool, concurrency=4)

The package does not import Ray, so it needs no extra: Ray calls the object.
"""

from poolservice_client.ray.pool_batches import PoolBatches

__all__ = ["PoolBatches"]
