"""Model families in PyTorch, one file each, under the same names: Config, Model, Attention, Layer.

A family's module also has `load_config`, `weight_sources`, `load_tokenizer`, `chat_format`,
`stop_ids` and `sampling_defaults`; the loader calls these. `gqa_decoder`, `prefix_lm` and
`chatglm_rounds` are what families share. Knows no files of weights, no sampling, and no loading.
"""
