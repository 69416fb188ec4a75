"""Maths answers: extraction from a response, symbolic comparison in a process that can be killed."""
