"""Compute the outputs of a backbone's frozen part once for each photo, and cache them on disk by content."""
