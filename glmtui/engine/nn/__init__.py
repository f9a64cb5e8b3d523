"""The layers that models are made of: linear layers, attention, norms, rotary positions, KV cache.

Knows tensors, devices and weight formats. Knows no model family, no file and no token.
"""
