"""Which models exist: known models, model families, and model folders on disk.

Recognises a checkpoint's family by its config.json and checks every number in it. Imports no torch
and reads no tensors.
"""
