"""Under what terms a picture may be used and who made it: what is said, gathered and never guessed."""
