"""`poolservice-server tune`: measures which settings suit this machine and the jobs of its user."""
