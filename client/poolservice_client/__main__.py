"""`python -m poolservice_client`, which is the `poolservice` command."""

from poolservice_client._cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
