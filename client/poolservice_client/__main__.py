"""Entry point of the `poolservice` command and of `python -m poolservice_client`."""

from poolservice_client._cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
