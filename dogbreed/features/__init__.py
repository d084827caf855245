"""Frozen features, computed once: what the frozen part of a backbone makes of each photo, kept on disk by content."""
