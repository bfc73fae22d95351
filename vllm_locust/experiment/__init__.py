"""Experiments: server configurations x workloads x loads x repeats, measured unattended."""
