"""The transport: sends messages and receives responses, with connections, retries and support for forks."""
