"""Clean, judge, tag and match captions."""
