"""vllm-locust: load tests for vLLM in Locust, with latencies one can trust."""

__version__ = "0.1.0"
