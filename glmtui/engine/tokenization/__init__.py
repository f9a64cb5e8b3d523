"""Text to token ids and back: tokenizer files, chat templates, and the text form of tool calls.

Knows the files of a model's folder. Knows no weights, and imports no tokenizer library: these run
in `sandbox`.
"""
