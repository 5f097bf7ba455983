"""`openwit browse`: look at a dataset in the browser, while it is made or years after."""
