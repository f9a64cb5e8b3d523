"""Kernels in C for CPUs, compiled on the machine that runs them.

`build` compiles them, `library` declares them to ctypes, `kernels` and `quantization` call them
with tensors. Without a compiler everything runs on torch's operations, slower.
"""
