"""Seeded scenarios of every launcher: faults of the cloud, clients and servers that are killed, and what must hold."""
