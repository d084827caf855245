"""AWS access, and what launchers do with S3 and IAM."""
