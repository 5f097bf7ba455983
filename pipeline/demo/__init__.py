"""A small web drawn and served on loopback, for the demonstration and for the tests."""
