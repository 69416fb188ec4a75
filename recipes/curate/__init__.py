"""From raw problems to a training set that one can trust [2501.12599 §2.1]: ``k15 curate``."""
