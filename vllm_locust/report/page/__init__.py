"""A run, several runs or an experiment as one HTML page that needs no network."""

from vllm_locust.report.page.write import write_page

__all__ = ["write_page"]
