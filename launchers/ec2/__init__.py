"""Runs on plain EC2 machines, spot by default, each in an Auto Scaling group of exactly one."""
