r"""The subject of a problem [2501.12599 §2.1], to balance and to report by; never a reason to leave one out.

k1.5 has "an automatic domain/discipline tagger"; its taxonomy and how it works are not published. Ours is ``DOMAINS``.
The source's own field decides where it is one that is known (MATH's ``subject``, NuminaMath's ``problem_type``,
DeepMath's ``topic``, ASDiv's ``type``); otherwise words do: set phrases for what is no school mathematics, and a table
of weights for what is. Of MATH's test problems three in four get MATH's own subject, mapped to ours (a constant answer
would have four in ten); arithmetic and algebra are confused most. Of the course problems of Minerva's set, read without
their ``subject``, a quarter (chemistry) to two thirds (differential equations, astronomy) are found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from recipes.curate.domain_words import PRIOR, SUBJECTS, WEIGHTS
from recipes.curate.wording import ends, without_drawings

DOMAINS = (
    "arithmetic", "algebra", "geometry", "number_theory", "counting", "precalculus", "calculus", "linear_algebra",
    "statistics", "logic", "physics", "chemistry", "biology", "economics", "code", "general",
)  # fmt: skip
"""``arithmetic`` has word problems of one to a few steps and MATH's Prealgebra; ``counting`` combinatorics and
probability; ``precalculus`` trigonometry, vectors and complex numbers at school."""
FIELDS = ("subject", "domain", "problem_type", "topic", "type", "category", "field", "discipline")
"""Where sources say what a problem is about, the most telling first."""
_KNOWN = {
    "algebra": "algebra", "intermediate algebra": "algebra", "inequalities": "algebra", "functions": "algebra",
    "abstract algebra": "algebra", "equations": "algebra", "algebra-1": "algebra", "algebra-2": "algebra",
    "prealgebra": "arithmetic", "arithmetic": "arithmetic", "math word problems": "arithmetic",
    "geometry": "geometry", "plane geometry": "geometry", "solid geometry": "geometry",
    "number theory": "number_theory", "gcd": "number_theory", "lcm": "number_theory",
    "counting & probability": "counting", "counting and probability": "counting", "combinatorics": "counting",
    "probability": "counting", "discrete mathematics": "counting", "graph theory": "counting",
    "precalculus": "precalculus", "trigonometry": "precalculus",
    "calculus": "calculus", "differential equations": "calculus", "real analysis": "calculus", "analysis": "calculus",
    "integral calculus": "calculus", "differential calculus": "calculus", "complex analysis": "calculus",
    "linear algebra": "linear_algebra", "statistics": "statistics", "mathematical statistics": "statistics",
    "logic": "logic", "logic and puzzles": "logic", "puzzle": "logic", "puzzles": "logic",
    "physics": "physics", "astronomy": "physics", "relativity": "physics", "mechanics": "physics",
    "chemistry": "chemistry", "biology": "biology", "medicine": "biology", "ecology": "biology",
    "economics": "economics", "microeconomics": "economics", "business": "economics", "finance": "economics",
    "computer science": "code", "programming": "code", "code": "code", "coding": "code",
    "addition": "arithmetic", "subtraction": "arithmetic", "multiplication": "arithmetic", "sum": "arithmetic",
    "common-division": "arithmetic", "addsub": "arithmetic", "multiarith": "arithmetic", "singleop": "arithmetic",
    "singleeq": "arithmetic", "ratio": "arithmetic", "difference": "arithmetic", "comparison": "arithmetic",
    "general": "general", "history": "general", "law": "general", "humanities": "general",
}  # fmt: skip
_CODE_FIELDS = ("tests", "test_list", "starter_code", "entry_point", "test_cases")
_WITHIN = re.compile(
    r"\b(relativity|chemistry|physics|astronomy|mechanics|differential equations|microeconomics|economics|ecology|"
    r"biology|statistics|linear algebra|calculus|number theory|combinatorics|geometry|algebra|computer science)\b"
)
"""Names of courses: "Introduction to Solid State Chemistry"."""

_TOKEN = re.compile(r"\\[a-z]+|[a-z]{2,}|[%!°=<>]")
_PHRASES = (
    ("code", ("```", "def ", "#include", "stdin", "input format", "python", "javascript", "java ", "pseudocode"),
     r"\b(?:write|implement|complete|create) (?:\w+ ){0,3}(?:function|program|method|class|script|code)\b|"
     r"\b(?:given|return) (?:the |an? )?(?:\w+ ){0,3}(?:array|string|linked list|binary tree|integer array)\b", 1),
    ("linear_algebra", ("eigenvalue", "eigenvector", "vector space", "linear transformation", "linear map", "nullity",
     "null space", "diagonaliz", "orthonormal", "linearly independent", "linearly dependent", "row echelon",
     "characteristic polynomial", "positive definite", "change of basis", "trace of the matrix", "rank of the matrix",
     "linear operator", "jordan form", "singular value", "column space", "matri"), "", 2),
    ("calculus", ("\\int_", "\\int ", "\\lim_", "derivative", "differentiable", "integral of", "taylor series",
     "maclaurin", "\\partial", "differential equation", "laplace transform", "fourier", "tangent line", "y''", "f''",
     "convergence", "converges", "infinite series", "continuous function", "divergence", "integrate ", "f'(",
     "\\dot{", "\\frac{d", "inflection", "critical point", "monotonically", "definite integral"), "", 1),
    ("statistics", ("standard deviation", "variance", "confidence interval", "hypothesis", "p-value", "regression",
     "normal distribution", "normally distributed", "estimator", "sample mean", "sample size", "poisson",
     "significance level", "correlation", "degrees of freedom", "t-test", "likelihood"), "", 2),
    ("chemistry", ("mole ", "moles", "\\mathrm{h}_{2}", "reaction", "molar", "atomic", "electron", "oxid", "titrat",
     "acid", "ions", "equilibrium constant", "enthalpy", "stoichiometr", "catalyst", "periodic table", "compound",
     "activation energy", "crystal", "diffusion", "lattice", "g/mol", "silicon", "copper", "bond", "solute"), "", 2),
    ("physics", ("joule", "newton", "coulomb", "photon", "wavelength", "kinetic energy", "potential energy",
     "momentum", "magnetic", "voltage", "resistor", "capacitor", "friction", "thermodynamic", "planck", "relativistic",
     "oscillator", "laser", "luminosity", "telescope", "redshift", "gravitational", "torque", "viscosity", "m/s",
     "electric field", "acceleration", "black hole", "speed of light", "galaxy", "spring constant", "star ", "stars",
     "velocity", "orbit", "circuit", "\\mathrm{~kg}", "\\mathrm{~m}", "frequency", "flux", "mass of", "hbar",
     "current", "damping", "damped", "charge"), "", 2),
    ("economics", ("demand curve", "supply curve", "elasticity", "utility function", "marginal", "monopol", "gdp",
     "inflation rate", "consumer surplus", "budget constraint", "competitive firm", "market equilibrium",
     "indifference curve", "production function", "cost function", "consumer's", "equilibrium price", "demand for"),
     "", 2),
    ("biology", ("species", "enzyme", "dna", "rna ", "protein", "genotype", "allele", "chromosome", "bacteri",
     "organism", "photosynthesis", "mitochondri", "gene ", "genes", "ecosystem"), "", 3),
    ("logic", ("knights and knaves", "knave", "always tells the truth", "always lies", "truth-teller", "liar"), "", 1),
)  # fmt: skip
"""Domain, phrases, a pattern that counts as one more, and how many of them it takes."""
_RULES = tuple(
    (name, words, re.compile(pattern) if pattern else None, least) for name, words, pattern, least in _PHRASES
)
_CHINESE = (
    ("calculus", ("导数", "积分", "极限", "求导")), ("counting", ("概率", "排列", "组合", "多少种")),
    ("geometry", ("三角形", "圆", "面积", "体积", "角", "边长")),
    ("number_theory", ("质数", "素数", "余数", "整除", "因数")),
    ("algebra", ("函数", "方程", "不等式", "数列", "多项式")), ("arithmetic", ("多少", "几")),
)  # fmt: skip
_CJK = re.compile(r"[\u4e00-\u9fff]")
_MATHEMATICAL = re.compile(r"[\d$\\=+<>]")


def domain(statement: str, row: Mapping[str, object]) -> str:
    """Return the subject of a problem, one of ``DOMAINS``. ``row`` has the source's other fields, of whatever names."""
    stated = _stated(row)
    return stated if stated else _by_words(without_drawings(ends(statement)).lower())


def _stated(row: Mapping[str, object]) -> str:
    """Return the subject that a field of the row gives, or an empty text."""
    for name in FIELDS:
        value = row.get(name)
        if isinstance(value, list | tuple):
            value = value[0] if value else None
        if isinstance(value, str) and (found := _read(value)):
            return found
    return "code" if any(row.get(name) for name in _CODE_FIELDS) else ""


def _read(value: str) -> str:
    """Return the subject that ``Mathematics -> Algebra -> ...`` or a name means, or an empty text. The last step that
    is known decides.
    """
    steps = [" ".join(step.split()) for step in value[:200].lower().replace("_", " ").split("->")]
    for step in reversed(steps):
        if step in _KNOWN:
            return _KNOWN[step]
    within = _WITHIN.search(steps[-1])
    return _KNOWN[within[1]] if within else ""


def _by_words(text: str) -> str:
    for name, words, pattern, least in _RULES:
        count = sum(map(text.__contains__, words))
        if count < least and pattern is not None and pattern.search(text):
            count += 1
        if count >= least:
            return name
    if len(_CJK.findall(text)) > 3:
        return next((name for name, words in _CHINESE if any(word in text for word in words)), "general")
    tokens = set(_TOKEN.findall(text))
    known = [WEIGHTS[token] for token in tokens if token in WEIGHTS]
    if not _MATHEMATICAL.search(text) and len(known) < 4:
        return "general"
    scores = [sum(column) for column in zip(PRIOR, *known, strict=True)]
    return SUBJECTS[scores.index(max(scores))]
