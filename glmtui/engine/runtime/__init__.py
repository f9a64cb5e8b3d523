"""A model at work: prefill, decoding, sampling, KV caches of several conversations.

Works on token ids and any `nn.decoder.Decoder`. Does not know model families, files or screens.
"""
