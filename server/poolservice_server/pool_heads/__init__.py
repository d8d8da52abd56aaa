"""Pool heads: pooling with learned weights, described by folders of files. Nothing here imports torch.

`pooling.torch_operators.pool_heads` computes them.
"""
