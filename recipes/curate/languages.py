r"""The language of a problem, told by its words: formulas, numbers, drawings and code are taken out first.

py3langid (langid.py's model, 97 languages, offline) tells; what is written in a script of one language needs no model.
Only languages in which problems are likely to come are told apart: the rarer ones of the model are what it most often
mistakes short English texts for.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Protocol

from recipes.curate.wording import without_drawings

LEAST_LETTERS = 12
"""Of a shorter text the language is not told; of scripts without an alphabet four characters do."""
LEAST_CERTAIN = 0.7
"""Probability under which it is not told either."""
LANGUAGES = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id",
    "it", "ja", "ko", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "sw", "ta", "te",
    "th", "tr", "uk", "ur", "vi", "zh",
)  # fmt: skip
_READ = 400
"""Letters that are read: more change nothing, and cost time."""
_OTHER_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]"), 2),
    ("ko", re.compile(r"[\uac00-\ud7af]"), 4),
    ("zh", re.compile(r"[\u3400-\u9fff]"), 4),
    ("th", re.compile(r"[\u0e00-\u0e7f]"), 4),
)
"""Language, a sign that only it has among those before, and how many of them tell. Japanese has Chinese signs, too."""
_ASCII = re.compile(r"[\x00-\x7f]*")
_CODE = re.compile(r"```.{0,4000}?(?:```|$)|`[^`\n]{0,200}`|https?://\S{1,300}|<[a-z/][^<>\n]{0,200}>", re.DOTALL)
_FORMULAS = re.compile(
    r"\$\$?[^$]{0,2000}\$\$?|\\\[.{0,2000}?\\\]|\\\(.{0,2000}?\\\)"
    r"|\\begin\{([a-z]{1,12}\*?)\}.{0,3000}?\\end\{\1\}|\\[A-Za-z]+|[{}]",
    re.DOTALL,
)
_WORDS = re.compile(r"[^\s\d!-@\[-`{-~¡-¿‐-⁯。，、？！：；（）「」《》।]{2,}|[aàeéiíoòuyаиовсуяو]\b")
"""Runs without ASCII's and other punctuation: vowel signs of Indian scripts are no word characters to ``\\w``."""


class _Model(Protocol):
    def classify(self, text: str) -> tuple[str, float]:
        """Return the likeliest language and its probability."""


def language_of(statement: str) -> str:
    """Return the ISO 639-1 code of a problem's language, or an empty text when there is too little of it to tell."""
    text = natural(statement)
    if _ASCII.fullmatch(text) is None:
        for language, signs, least in _OTHER_SCRIPTS:
            if len(signs.findall(text)) >= least:
                return language
    if sum(map(len, text.split())) < LEAST_LETTERS:
        return ""
    language, probability = _model().classify(text)
    return language if probability >= LEAST_CERTAIN else ""


def natural(statement: str) -> str:
    """Return the words of the beginning of a text, without formulas, code, drawings and numbers."""
    text = unicodedata.normalize("NFC", statement[: 12 * _READ])
    text = _FORMULAS.sub(" ", _CODE.sub(" ", without_drawings(text)))
    return " ".join(_WORDS.findall(text))[:_READ].lower()


@cache
def _model() -> _Model:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # here, not above: it needs numpy and unpacks a model

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages(LANGUAGES)
    classifier: _Model = model
    return classifier
