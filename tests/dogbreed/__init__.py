"""Tests of dogbreed/."""
