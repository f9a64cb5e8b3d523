"""Small building blocks that several screens share: a line of text, a line cache, meters, bindings.

None of them knows the session, the engine or the conversation.
"""
