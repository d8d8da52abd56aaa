"""The poolservice server: the service and the `poolservice-server` command."""
