"""What is planned and what is computed: no clock, no socket, no gevent, no Locust, no global random state."""
