"""The poolservice server."""
