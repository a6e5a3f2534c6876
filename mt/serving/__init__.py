"""A server for one model: a queue before it, LibreTranslate's protocol, HTTP."""
