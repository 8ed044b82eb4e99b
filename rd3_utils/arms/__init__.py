"""What a command trains: arms, students and seeds, and where the labels of each come from."""
