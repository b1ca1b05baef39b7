"""The KV router: which worker holds which blocks of KV cache, as a fold over a topic of KV events.

`RouterState` (dynlog.router.state) is what a service embeds; ``dynlog router serve`` is that service over HTTP.
"""
