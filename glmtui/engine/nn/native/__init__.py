"""Kernels in C for CPUs, compiled where they run: `build` makes them, `kernels` calls them.

Where they cannot be had, everything runs on torch's own operations, slower.
"""
