"""The only reader of the clock: sockets, time stamps and the requests that travel over them.

Built on gevent, and without Locust: reads happen in callbacks of gevent's hub, so that the arrival of bytes
is seen when it happens and not when some greenlet gets its turn.
"""
