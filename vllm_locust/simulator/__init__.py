"""A server shaped like vLLM: its scheduler in virtual time, its wire format on a real socket, no GPU.

    text ─ cost ─ kv ─ stats          what tokens are, what a step costs, where KV lives, what is counted
    engine                            continuous batching; no clock, no socket
    protocol ─ render ─ exposition    bytes of requests, answers and /metrics
    wire ─ sendlog ─ server           the only part that reads the clock and touches sockets

Rule: nothing here imports Locust, gevent or asyncio; the server must be the steadier end of a measurement.
"""
