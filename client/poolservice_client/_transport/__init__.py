"""Bytes to a server and back: connections, retries, forks."""
