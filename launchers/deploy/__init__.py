"""From a finished run to a server in the cloud."""
