"""Real processes, killed with SIGKILL at random moments, and an oracle outside that knows what was acknowledged."""
