"""A site of Runs from folders and from the Hub, each checked before it is ranked."""
