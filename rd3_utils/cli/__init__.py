"""What a command of `python -m rd3_utils` takes, one module each, and the options that several share."""
