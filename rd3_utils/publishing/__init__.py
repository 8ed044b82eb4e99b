"""Who sees it: the model card and its pictures."""
