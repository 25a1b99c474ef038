"""Room: evidence."""
