"""The transcript: the messages of a conversation as one scrollable view, drawn line by line.

Gets messages that are already sanitised; knows neither the session nor the engine.
"""
