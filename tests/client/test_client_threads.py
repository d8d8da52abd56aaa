"""One blocking client shared by many threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from poolservice_client import GlobalAvgPool2d, InvalidRequest, MaxPool2d, MinPool2d, PoolClient, PoolSpec


def test_each_of_64_threads_gets_its_own_results(client: PoolClient) -> None:
    specs: list[PoolSpec] = [GlobalAvgPool2d(), MaxPool2d(2), MinPool2d(2, return_indices=True)]

    def one(number: int) -> bool:
        x = np.full((4, 8, 8 + 2 * (number % 3)), number, np.float32)
        if number % 50 == 7:
            try:
                client.pool(x, MaxPool2d(99))
            except InvalidRequest:
                return True
            return False
        mean, high, (low, _) = client.pool(x, specs)
        return bool((mean == number).all() and (high == number).all() and (low == number).all())

    with ThreadPoolExecutor(64) as threads:
        assert all(threads.map(one, range(1000)))
