"""What the machine has and what is free: GPUs, main memory, CPU, limits of a container.

Does not know models. Only `memory` imports torch.
"""
