"""The `poolservice` command: one module a noun, put together in `app`."""
