"""The terms of use and the makers of pictures: statements are gathered and never guessed."""
