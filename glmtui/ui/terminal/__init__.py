"""The terminal itself: driver, input, clipboard, external editor, signals, themes, cell widths.

Nothing here knows what the screens show.
"""
