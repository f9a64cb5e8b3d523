"""A chat without its screen: the session with the model, and what is saved of it.

Knows the engine's protocol and the store. Shows nothing itself, apart from one dialog.
"""
