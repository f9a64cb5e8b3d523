"""Modal dialogs: pickers for models and conversations, search, questions, running tools.

A dialog is dismissed with an answer; the caller decides what follows from it.
"""
