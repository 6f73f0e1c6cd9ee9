"""Measurements of speed: the tables that `make bench` writes."""
