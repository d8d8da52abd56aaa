"""`poolservice-server doctor`: checks this machine and a configuration before a server starts with it."""
