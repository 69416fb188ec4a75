"""How much of planted contamination is found, and how much of what is found is none (``__main__``)."""
