"""All wiring with Locust: options, users, the run and its events.

Read `wiring.py` from top to bottom to see what happens when; importing it is what joins the suite to Locust.
"""
