"""The command line as its user meets it: exit status, stdout, stderr, signals."""
