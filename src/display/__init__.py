"""Windows of one stream each, in a child process."""
