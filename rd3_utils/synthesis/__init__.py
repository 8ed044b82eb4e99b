"""Distilled image sets made here: distribution matching, patches of real images, recovery from a teacher."""
