"""Panels around the conversation: status bar, settings, statistics, help, memory meters.

Everything shown is made by pure functions from the session's state and measurements.
"""
