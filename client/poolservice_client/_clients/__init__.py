"""The two public clients, PoolClient and AsyncPoolClient."""
