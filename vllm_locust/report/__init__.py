"""What is shown of a run: text, tables, plots and pages. Computes nothing that `core` does not."""
