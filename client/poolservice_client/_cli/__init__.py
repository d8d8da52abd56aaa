"""The `poolservice` command: one module per subcommand, assembled in `app`."""
