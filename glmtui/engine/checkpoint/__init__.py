"""Files to named tensors: safetensors, .bin and GGUF, with the packings of GPTQ and ChatGLM.

Knows file formats and how they pack quantised weights. Does not know which tensors a model needs
(`models`) or on which device they go (`loading`).
"""
