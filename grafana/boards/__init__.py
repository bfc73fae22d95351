"""The Grafana boards as code; `python -m grafana.boards` in the checkout's root writes `grafana/dashboards`.

Rule: a board's module reads like its screen, row by row. How PromQL is written is in `promql`, what Grafana
wants to know about a panel in `panels`, what all boards have in common in `board`.
"""
