"""Makes backbone folders from model files: ONNX files, state dicts, networks of timm, and Hugging Face-style folders.

The command `poolservice-server backbone import` uses it. The server never imports it.
"""
