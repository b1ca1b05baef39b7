"""Where bytes rest: log engines and object stores, each found by its URL's scheme and imported only then.

An engine keeps every sentence of `dynlog.log` or `dynlog.objects`, and may use core and its own dependency alone."""
