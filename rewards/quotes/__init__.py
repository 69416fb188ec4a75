"""Faithful quotes: whether what a response states as given stands in its prompt (docs/quotes.md)."""

from rewards.quotes.report import Quote, QuoteReport, quote_report

__all__ = ["Quote", "QuoteReport", "quote_report"]
