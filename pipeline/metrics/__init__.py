"""Measures of one answer, of a pair of files, and of many."""
