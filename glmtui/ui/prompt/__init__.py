"""The prompt: text area, completion, history of sent texts, attachments, folding of large pastes.

Knows commands by their declarations, but neither the session nor the engine.
"""
