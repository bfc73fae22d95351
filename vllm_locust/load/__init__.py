"""All wiring with Locust: options, users, the run's events. Importing this package is what wires it.

Read `run.py` from top to bottom to see what happens when.
"""
