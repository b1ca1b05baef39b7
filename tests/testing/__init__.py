"""dynlog.testing as its users have it: the plugin in projects of their own, on real servers."""
