"""The observer: a process beside the load, that looks at the server and shows both sides to others."""
