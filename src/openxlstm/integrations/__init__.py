"""Bridges to other libraries; each is an extra, and loads inside the function that uses it."""
