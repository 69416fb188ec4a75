"""The rule that an answer must be worked out, against boxing the problem instead of its answer.

What counts as worked out is measured by the reference. When that is a plain number, so must the answer be; an operation
that is still to be carried out is accepted only when the reference has one of its kind.
"""

from __future__ import annotations

from fractions import Fraction

from rewards.math.tree import Expr, Num, Op, Sym, Unit, negated, symbols, walk

_KINDS = {
    "sum": "a sum sign", "prod": "a product sign", "int": "an integral", "lim": "a limit", "mod": "mod", "max": "max",
    "min": "min", "gcd": "gcd", "lcm": "lcm", "det": "a determinant", "sup": "sup", "inf": "inf",
}  # fmt: skip
"""Operations that are refused even on variables: ``sum_{k=1}^n k`` is no answer where ``n(n+1)/2`` is one."""
_COUNTING = frozenset({"fact", "binom"})
_LOGARITHMS = frozenset({"log"})
_ROUNDING = frozenset({"floor", "ceil", "abs"})
_PLAIN = frozenset({"neg", "div", "mixed", "add", "mul", "pow", "root"})


def _class_of(name: str) -> str:
    """Return the kind of an operation on numbers, to be named in a reason; empty for arithmetic."""
    if name in _COUNTING:
        return "a binomial or factorial"
    if name in _LOGARITHMS:
        return "a logarithm"
    if name in _ROUNDING:
        return "a rounding or absolute value"
    return "" if name in _PLAIN else _KINDS.get(name, "a trigonometric function")


def is_numeral(node: Expr) -> bool:
    """Return whether a node is a plain number: an integer, decimal, fraction or mixed number, with or without sign."""
    if isinstance(node, Op):
        if node.name == "neg":
            return is_numeral(node.args[0])
        return node.name in ("div", "mixed") and all(is_numeral(arg) for arg in node.args)
    return isinstance(node, Num)


def _is_power(node: Expr) -> bool:
    """Return whether a node is a whole power of a plain number: ``2^{10}``, ``10^{-3}``."""
    return (
        isinstance(node, Op)
        and node.name == "pow"
        and is_numeral(node.args[0])
        and is_numeral(node.args[1])
        and not (isinstance(node.args[1], Op) and node.args[1].name != "neg")
    )


def is_written_number(node: Expr) -> bool:
    r"""A plain number, a power of one, a number in scientific notation, or a fraction of such."""
    if is_numeral(node) or _is_power(node):
        return True
    if not isinstance(node, Op):
        return False
    if node.name in ("neg", "div"):
        return all(is_written_number(arg) for arg in node.args)
    if node.name == "mul" and len(node.args) == 2:
        factor, power = node.args
        return is_numeral(factor) and _is_power(power) and isinstance(power, Op) and power.args[0] == Num(Fraction(10))
    return False


def _kinds(node: Expr) -> set[str]:
    """Kinds of operations that are still to be carried out, and of those that hide a step or a kink."""
    found = set()
    for part in walk(node):
        if isinstance(part, Op) and (part.name in _KINDS or part.name in _ROUNDING or not symbols(part)):
            found.add(_class_of(part.name))
    return found - {""}


def _has_arithmetic(node: Expr) -> bool:
    """Return whether a sum or product of plain numbers is left standing somewhere."""
    for part in walk(node):
        if isinstance(part, Op) and part.name in ("add", "mul"):
            plain = [arg for arg in part.args if is_numeral(arg) or (part.name == "add" and _is_power(arg))]
            if len(plain) > 1:
                return True
    return False


def _cancels(node: Expr) -> bool:
    """Return whether a sum holds a term and its negative."""
    for part in walk(node):
        if isinstance(part, Op) and part.name == "add":
            terms = set(part.args)
            if any(negated(term) in terms for term in part.args if isinstance(term, Op) and term.name == "neg"):
                return True
    return False


def _is_closed_form(node: Expr) -> bool:
    r"""A number such as ``\frac{\pi}{4}`` or ``2\sqrt3``, which no decimal is: with pi, e or an irrational root."""
    if symbols(node) or _has_arithmetic(node) or _kinds(node) - {_class_of("log")}:
        return False
    for part in walk(node):
        if isinstance(part, Op) and part.name == "log":
            return part.args[1] == Sym("e") and isinstance(part.args[0], Num) and part.args[0].value > 1
    for part in walk(node):
        if part in (Sym("pi"), Sym("e")):
            return True
        if isinstance(part, Op) and part.name == "root" and _is_irrational(*part.args):
            return True
    return False


def _is_irrational(radicand: Expr, degree: Expr) -> bool:
    if not isinstance(radicand, Num) or not isinstance(degree, Num) or degree.value not in (2, 3):
        return False
    value, count = radicand.value, int(degree.value)
    if max(value.numerator, value.denominator) > 10**15:
        return False
    return any(round(part ** (1 / count)) ** count != part for part in (value.numerator, value.denominator))


def unfinished(found: Expr, gold: Expr, closed_forms: bool = False) -> str:
    """Return what is still to be done in ``found``; empty when it is an answer in the manner of ``gold``.

    ``closed_forms``: an exact value such as ``pi/4`` may stand for a number, as where that is compared with a
    tolerance.
    """
    if isinstance(found, Unit) or isinstance(gold, Unit):
        found = found.value if isinstance(found, Unit) else found
        gold = gold.value if isinstance(gold, Unit) else gold
    if closed_forms and is_numeral(gold) and _is_closed_form(found):
        return ""
    more = _kinds(found) - _kinds(gold)
    if any(isinstance(part, Op) and part.name == "root" and symbols(part) for part in walk(gold)):
        more -= {_class_of("abs")}
    if more:
        return f"not worked out: {min(more)} is left standing"
    if is_numeral(gold) and not is_written_number(found):
        if symbols(found):
            return "variables where a number is asked"
        return "not worked out: the reference is a plain number"
    if symbols(found) - symbols(gold):
        return "a variable that the reference lacks"
    if (_has_arithmetic(found) or _cancels(found)) and not _has_arithmetic(gold):
        return "not worked out: arithmetic is left standing"
    return ""
