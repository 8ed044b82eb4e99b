"""Studies: image sets x protocols x students x seeds, from the file that states them to the report."""
