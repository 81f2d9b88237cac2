"""A generator of incidents: real clients of several languages on a real server, and what inspect says of each."""
