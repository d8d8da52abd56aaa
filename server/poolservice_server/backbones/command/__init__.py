"""The command `poolservice-server backbone`: import, check and list backbones."""
