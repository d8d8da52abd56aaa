"""The transport: sends messages to a server and receives the responses, with connections, retries and support for forks."""
