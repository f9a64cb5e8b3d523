"""glmtui: a terminal chat client that runs GLM models on your own machine."""

__version__ = "0.1.0"
