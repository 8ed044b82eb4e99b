"""What it is worth: runs, the scores over them, and the report that every output shows."""
