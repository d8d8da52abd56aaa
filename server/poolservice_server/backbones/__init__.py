"""Backbones: networks that turn an image into feature maps and vectors, described by folders of files.

Only `engines/`, which runs the networks, and `importing/`, which makes folders, import torch or onnxruntime.
"""
