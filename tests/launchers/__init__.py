"""Tests of launchers/."""
