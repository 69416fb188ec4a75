"""long2short: from a long-CoT policy to a short one, four ways, compared on one token-efficiency plot
[2501.12599 §2.4].

``Variant`` is what the stages hand to the report.
"""
