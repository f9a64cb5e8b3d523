"""Converts a model folder to another one: quantised, or without the image tokens of ChatGLM-6B.

Knows which weights to write and how to verify them. Does not know how a finished folder gets to
its place on disk (`pull.staging`) or how models are loaded (`loading`).
"""
