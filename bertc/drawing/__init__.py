"""Graphs as pictures: what is drawn, repeated layers folded, boxes placed in rows."""
