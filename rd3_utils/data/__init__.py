"""What is learned: images, the views drawn of them, and the soft labels a teacher gave to each view."""
