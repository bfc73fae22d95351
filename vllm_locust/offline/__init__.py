"""vLLM's offline engine over the same scenarios: throughput without a server. Runs in vLLM's environment."""
