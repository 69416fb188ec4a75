"""Faithful quotes, measured: planted mis-copies that are found, and false alarms on solutions that are right."""
