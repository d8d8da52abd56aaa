"""The Prometheus metrics: what they count, and the server that shows them. `METRICS.md` lists all of them.

What the event loop counts for each call and request are plain numbers, which become metrics when they are scraped. A
call and its request cost about a microsecond each; a single counter with a histogram of prometheus_client, each of
which takes a lock, costs ten. The batcher, the backend and the core keep counts of their own, which are read when they
are scraped.

`server.py` serves the metrics of one process, or in a supervisor those that `workers.py` collects from all workers.
"""
