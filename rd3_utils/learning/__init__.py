"""Who learns: students, teachers, losses, the training of one student and its one evaluation."""
