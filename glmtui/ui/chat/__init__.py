"""The chat screen and the controllers it owns, one for each group of commands.

Knows the widgets and the workspace; not how conversations are saved, nor what a model is.
"""
