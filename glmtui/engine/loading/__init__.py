"""A model folder and options in, a model in memory out.

Knows how weights are represented in memory, how much they need, and on which devices they go.
Does not know the layout of weight files (`checkpoint`) or one family from another (`models`).
"""
