"""Room: layers."""
