"""The command line: arguments, subcommands, exit codes and plain output without a screen.

Each subcommand imports what it needs when it runs. Models and conversations are handled by other
packages.
"""
