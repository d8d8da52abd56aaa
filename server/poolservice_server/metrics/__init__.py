"""The Prometheus metrics: what they count, and the server that shows them. `METRICS.md` lists all of them.

What the event loop counts for each call and request are plain numbers, which become metrics when they are scraped. They
cost about a microsecond per call; the counter and the histogram of prometheus_client, each of which takes a lock, cost
ten. The batcher, the backend and the core keep counts of their own, which are read when they are scraped.

`server.py` serves the metrics of one process, or in a supervisor those that `workers.py` collects from all workers.
"""
