"""What is asked: scenarios turn (seed, index) into requests, the same on every machine and worker."""
