"""Transport: carrying messages to a server and back, with connections, retries and support for forks."""
