"""Network access: the HTTP client, proxies, and the redaction of URLs.

Knows nothing of model hubs, chat servers or the user interface.
"""
