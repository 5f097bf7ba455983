"""Turn untrusted bytes into clean JPEG, in a child process that can be killed."""
