"""Lowerings, one for each engine. A module offers `hosting`, `write` and `open_session`."""
