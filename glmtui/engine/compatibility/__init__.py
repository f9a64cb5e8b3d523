"""Models of families without an implementation of our own, run by the transformers library.

Knows transformers, and makes its models and caches look like `nn.decoder` and `nn.kv_cache`.
"""
