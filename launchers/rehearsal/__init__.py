"""The rehearsal cloud: AWS's interfaces on this machine, with training jobs that really run. No account, no cost."""
