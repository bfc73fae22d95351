"""What runs left behind, read again: folders, requests as columns, rows of numbers. Shows nothing."""
