"""Numbers that nobody needs to state: what a unit, a shape or a thing is made of. A word licenses its numbers.

A closed table of conversions and common knowledge; it holds no number that only one problem needs. A number of it
supports weakly: only where the equation holds in which it is used (``rewards.quotes.numbers``).
"""

from __future__ import annotations

from collections.abc import Iterable

_TABLE = {
    # Time.
    "second": "60 3600", "minute": "60", "hour": "60 24 3600", "day": "24 7 365 30 31 12", "night": "7 24",
    "week": "7 52 4 5", "weekday": "5 2", "workday": "5", "workweek": "5", "weekend": "2 52", "fortnight": "14 2",
    "biweekly": "26 2", "month": "12 30 31 4 28", "quarter": "4 3 25 15 0.25", "season": "4", "year": "12 365 366 52 4",
    "bimonthly": "2 6 24", "semester": "2", "decade": "10", "century": "100", "leap": "366 29", "noon": "12",
    "midnight": "12 24", "am": "12 24", "pm": "12 24", "daily": "7 365 30", "weekly": "52 4 7", "monthly": "12",
    "annual": "12", "annually": "12", "yearly": "12 52 365", "clock": "12 60", "school": "5", "o'clock": "12",
    "morning": "12", "afternoon": "12", "evening": "12", "today": "24", "february": "28 29", "april": "30",
    "june": "30", "september": "30", "november": "30", "january": "31", "march": "31", "may": "31", "july": "31",
    "august": "31", "october": "31", "december": "31", "summer": "3",
    "monday": "7 5", "tuesday": "7", "wednesday": "7", "thursday": "7", "friday": "7 5", "saturday": "7 2",
    "sunday": "7 2", "hourly": "24 60",
    # Money.
    "dollar": "100", "cent": "100", "penny": "100 1 0.01", "nickel": "5 20 100 0.05", "dime": "10 100 0.1",
    "coin": "100",
    "pound": "16 2000 100", "euro": "100", "price": "100", "interest": "100", "discount": "100", "tax": "100",
    # Length, area, volume, weight.
    "inch": "12 36", "foot": "12 3 5280", "feet": "12 3 5280", "yard": "3 36 1760", "mile": "5280 1760 1.6",
    "mm": "10 1000", "millimeter": "10 1000", "cm": "100 10 2.54", "centimeter": "100 10 2.54", "meter": "100 1000",
    "metre": "100 1000", "m": "100 1000", "km": "1000", "kilometer": "1000", "kilometre": "1000",
    "gram": "1000", "g": "1000", "kg": "1000", "kilo": "1000", "kilogram": "1000", "mg": "1000", "milligram": "1000",
    "ton": "2000 1000", "tonne": "1000", "ounce": "16 128 8", "oz": "16 128 8", "lb": "16 2000",
    "liter": "1000", "litre": "1000", "ml": "1000", "milliliter": "1000", "gallon": "4 8 16 128", "quart": "4 2 32",
    "pint": "2 8 16", "cup": "8 16 2 4", "tablespoon": "3 16", "teaspoon": "3", "acre": "43560",
    # Parts of a whole.
    "percent": "100", "percentage": "100", "average": "2", "mean": "2", "median": "2", "midpoint": "2",
    "middle": "2", "equally": "2", "even": "2 50", "evenly": "2 50", "odd": "2", "split": "2 50",
    # Shapes and things with a number of their own.
    "triangle": "3 2 180", "equilateral": "3", "isosceles": "2", "square": "4 2", "rectangle": "4 2",
    "rectangular": "4 2", "perimeter": "4 2", "length": "2", "width": "2", "pentagon": "5 540", "hexagon": "6 720",
    "octagon": "8", "circle": "360 2", "radius": "2", "diameter": "2", "angle": "90 180 360", "degree": "90 180 360",
    "cube": "3 6 8 12", "die": "6", "dice": "6", "deck": "52", "card": "52 4 13", "coins": "2", "leg": "2 4 6 8",
    "wheel": "2 3 4", "bicycle": "2", "bike": "2", "tricycle": "3", "car": "4", "unicycle": "1", "vehicle": "4",
    "dog": "4", "cat": "4", "cow": "4", "horse": "4", "goat": "4", "sheep": "4", "pig": "4", "chicken": "2",
    "duck": "2", "bird": "2", "spider": "8", "insect": "6", "octopus": "8", "ant": "6", "animal": "4 2",
    "eye": "2", "ear": "2", "hand": "2 10", "finger": "10 5", "toe": "10 5", "arm": "2", "shoe": "2",
    "sock": "2", "glove": "2", "parent": "2", "sandwich": "2", "wing": "2", "side": "4 2",
    "alphabet": "26", "watt": "1000", "kwh": "1000",
    "kw": "1000", "letter": "26", "dozen": "12", "gross": "144", "human": "2", "people": "2", "boot": "2",
    "husband": "2", "wife": "2", "brother": "2", "sister": "2", "partner": "2", "daughter": "2",
}  # fmt: skip
NUMBERS = {word: tuple(map(float, numbers.split())) for word, numbers in _TABLE.items()}


def licensed(words: Iterable[str]) -> set[float]:
    """Return the numbers that words license; ``words`` in lower case, plurals too."""
    found: set[float] = set()
    for word in words:
        if word.startswith(("kilo", "milli")):
            found.add(1000.0)
        for form in (word, word[:-1] if word.endswith("s") else "", word[:-2] if word.endswith("es") else ""):
            found.update(NUMBERS.get(form, ()))
        if word.endswith("ies"):
            found.update(NUMBERS.get(word[:-3] + "y", ()))
    return found


def converted(value: float, word: str) -> list[float]:
    """Return what an amount of a unit is in others: 2 weeks are 14 days; nothing of what is no unit."""
    return [value * number for number in sorted(licensed([word.lower()])) if number > 1]
