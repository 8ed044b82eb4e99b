"""What frozen features of students tell about other benchmarks, from the networks to the report."""
