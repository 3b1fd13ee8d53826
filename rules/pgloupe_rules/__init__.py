"""What a statement means and what to do about it: events in, decisions and findings out.

Knows nothing of sockets, asyncio, the clock or the proxy, so it can be fed from the wire, a log file or a test.
"""
