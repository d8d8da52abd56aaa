"""The client SDK of poolservice."""
