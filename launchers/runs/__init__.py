"""Run folders on this machine."""
