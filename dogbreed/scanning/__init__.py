"""What a folder of photos holds: its layout, its files, which are usable, and which are the same photo."""
