"""Problems that refer to what their text lacks: a figure, a table, a passage, another problem."""

from __future__ import annotations

import re

from recipes.curate.wording import Wording

_DATA = "graphs?|charts?|tables?|number lines?|histograms?|plots?"
_PICTURES = "figures?|fig\\.?|diagrams?|pictures?|images?|drawings?|illustrations?"
_THINGS = f"(?:{_DATA}|{_PICTURES}|grids?|maps?|spinners?)"
_SHOWS = "shows?|represents?|gives?|displays?|illustrates?|indicates?"
_END = "$|[.;:?]"
_ELSEWHERE = re.compile(
    "|".join(
        (
            # "according to the graph", "use the table below": what is asked for is read from it
            r"\b(?:according to|based on|refer(?:ring)? to|look(?:ing)? at|study|consult|us(?:e|ing)|read|complete|"
            rf"fill in) (?:the|this) (?:[\w-]+ ){{0,2}}{_THINGS}"
            rf"(?= ?(?:{_END}|,|below|above|shown|given|to\b|and\b|in\b))",
            # "the chart below,"; of a figure only where no description follows, as in "in the figure below, $AB = 3$"
            rf"(?<!as shown in the )(?<!see the )\b(?:{_THINGS}(?! below,| above,)|(?:{_DATA})) (?:\d+ )?"
            r"(?:shown |given )?(?:below|above|(?:to|at|on) (?:the|your) right)"
            rf"(?= ?(?:{_END}|,|(?:{_SHOWS}|lists?|to|is|are|has|and)\b))",
            rf"\b(?:the|this|each) (?:[\w-]+ ){{0,2}}{_THINGS} (?:below |above |here )?(?:{_SHOWS})\b(?! that)",
            rf"\b{_THINGS}[^.?]{{0,80}}\b(?:is|are) (?:shown|drawn|given|plotted|pictured|displayed)(?: in \w+)? "
            r"(?:below|above|here)\b",
            rf"\b(?:in|from) the (?:{_PICTURES}|charts?|photos?|bar graphs?)(?: (?:shown|given))?"
            r"(?: (?:below|above|here))?\s?\?",
            rf"\bin the {_THINGS} (?:below|above|shown)\b(?! the\b|,)",
            r"\b(?:grid|table|graph|chart|number line|spinner|map|array)s? shown\b",
            r"\bis (?:graphed|pictured|plotted|depicted) (?:above|below|here)\b",
            rf"\bas (?:shown|seen|depicted) in {_THINGS}[^.]{{0,80}}\b(?:marked|indicated|labell?ed)\b",
            r"\bare as (?:indicated|marked|labell?ed|shown)\b",
            r"\b(?:passage|article|paragraph|excerpt|text|story) (?:above|below)\b",
            r"\b(?:results?|answers?|solutions?|values?|parts?|continued?|refer|used?) (?:of|from|to|in|found in) "
            r"(?:the |your )?(?:(?:previous|preceding|last|earlier) (?:problem|question|part|exercise)"
            r"|(?:problem|question|exercise) \d+)\b",
        )
    )
)
_WORDS = (
    "figure", "fig.", "diagram", "graph", "chart", "table", "picture", "image", "drawing", "grid", "map", "plot",
    "number line", "array", "spinner", "histogram", "illustration", "depict", "are as ", "passage", "article",
    "excerpt", "paragraph", "text ", "story", "problem", "question", "exercise", "previous part", "preceding part",
    "last part", "earlier part",
)  # fmt: skip
"""Each match of ``_ELSEWHERE`` has one of them."""
_DRAWN = re.compile(r"\[asy|\\begin\{(?:tabular|array|tikzpicture|asy)|\|\s{0,9}:?-{2,}|\|[^|\n]{1,60}\|[^|\n]{1,60}\|")
_ROWS = re.compile(r"\n[^\n\d]{0,60}\d[^\n\d]{1,20}\d[^\n\d]{1,20}\d")
_IMAGES = re.compile(r"!\s?\[[^\]\n]{0,200}\]\s?\(|!image\(|<image|<img\b|\\includegraphics")
_IMAGE_SIGNS = ("![", "! [", "!image", "<im", "\\includegraphics")


def refers_elsewhere(read: Wording) -> bool:
    """Whether what a problem asks for must be read from something that is not there. Images are not: the model that
    is trained sees text.
    """
    if read.has(*_IMAGE_SIGNS) and _IMAGES.search(read.text):
        return True
    return read.near(_ELSEWHERE, *_WORDS) and not _is_drawn(read)


def _is_drawn(read: Wording) -> bool:
    """Whether a drawing's code, a table, or rows of numbers stand in the statement."""
    return _DRAWN.search(read.raw) is not None or len(_ROWS.findall(read.raw)) > 1
