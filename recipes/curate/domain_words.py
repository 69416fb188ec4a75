r"""What words say about the subject of a mathematics problem: a table of weights, learned once.

A logistic regression, sparse (L1) to choose the words and refitted on those, of the subjects that the training half of
MATH gives its 7,499 problems (MIT), with 800 of GSM8K's as arithmetic; a word counts once. Algebra and Intermediate
Algebra are one subject, Prealgebra is arithmetic.
"""

from __future__ import annotations

SUBJECTS = ("algebra", "arithmetic", "counting", "geometry", "number_theory", "precalculus")
PRIOR = (20, 17, -10, -16, -3, -8)
"""Tenths of log-odds, by subject, of a problem without any of the words."""
_TABLE = r"""
! -7,-7,21,-7,3,-3 | % 6,7,-1,0,-10,-2 | < 1,-5,1,3,0,0 | = 9,-8,-4,1,-2,5 | ab 0,1,-3,0,1,0 | abc -7,-4,0,1,4,6
abcd -8,5,-5,8,-3,4 | ac -1,3,-3,5,-1,-3 | ad -8,-1,1,6,-1,2 | all 0,0,1,-3,1,1 | angle -9,7,-2,3,-6,8
\angle -7,6,-2,6,-4,0 | answer 0,0,6,0,-4,-1 | \arcsin -11,-3,-1,0,-2,17 | area 2,4,-3,8,-11,-1
average 0,11,3,-4,-9,-1 | ax 7,-9,-4,11,-3,-2 | axis 3,-8,-4,8,-3,4 | base -16,-13,-5,7,30,-4 | bc 2,-2,0,3,-7,4
\binom -13,-4,24,-1,-5,0 | but 2,0,5,-6,0,-2 | bx 7,-1,-2,-4,-7,8 | by -1,-2,-3,3,-3,5
calculate -2,5,6,-2,-5,-2 | can 0,1,5,-3,-1,-2 | cd -4,-2,0,8,-2,0 | \cdot -3,2,4,-4,4,-4
\cdots 2,-11,5,-4,7,0 | \circ -14,0,-4,17,-6,7 | circle -4,1,1,6,1,-4 | circles -2,4,-3,8,1,-8
circular -6,-5,7,11,-6,-1 | cm -5,7,-4,9,-2,-4 | coefficient 2,-8,15,-2,-5,-2 | coefficients 9,-4,1,-2,-6,1
color -7,-3,11,-4,3,0 | commas 10,5,-3,-4,-3,-6 | common -3,2,-2,1,5,-4 | complex 12,-8,-6,-5,-7,13
compute -1,-7,6,5,-7,4 | contain -4,-1,8,-1,-1,-2 | coordinate 6,-8,-1,3,-3,3 | coordinates 6,-12,-4,9,-3,5
\cos -11,-12,-3,10,-4,21 | cost 5,6,-4,-1,-5,-1 | \cot -10,-4,-1,-3,-1,18 | could -6,-3,4,1,6,-1
cube -8,-8,1,11,4,1 | cubic 4,-9,-1,8,1,-3 | day 5,-3,1,-5,3,-1 | \dbinom -13,-9,29,-2,-2,-3
decimal -5,2,-8,2,13,-4 | defined 6,-7,0,-4,1,4 | degrees -9,3,-4,9,-6,7 | diagram -10,6,3,9,-6,-2
diameter -3,2,-2,10,-2,-5 | did 6,6,-8,-3,0,-1 | difference 4,0,-3,2,-2,-2 | different -7,1,9,1,-4,0
digit -11,3,10,-9,13,-7 | digits -9,2,10,-5,6,-4 | distance 7,-9,-6,1,-2,10 | distinct -3,-2,3,-6,7,0
\div -11,13,1,-1,0,-3 | divided -5,1,2,-5,9,-3 | divisible -5,9,-6,-4,11,-6 | divisor -6,2,-2,-4,12,-2
divisors -14,5,-5,-2,17,-2 | does 2,2,-6,-2,4,0 | dollars 6,-2,3,-4,-1,-1 | \dots 6,-4,-5,-5,1,7
each -2,1,3,5,-5,-3 | ellipse 10,-5,-1,-6,-1,3 | enter 3,-7,-3,-6,-2,16 | equal 3,3,-1,-2,-1,-3
equation 10,-2,-3,-4,-4,4 | evaluate 11,-6,-4,-2,-4,5 | every 0,6,-3,-4,0,1 | exactly 1,-3,4,-7,9,-3
expand 11,-8,1,0,-2,-1 | expansion 3,-9,11,-2,0,-2 | expected -11,-9,27,-2,-4,0 | expression 10,1,-4,-2,-1,-4
factors -6,-3,-3,-2,15,-2 | feet 7,2,-5,7,-7,-4 | find -1,-6,1,1,-2,6 | first 2,-5,0,1,3,-1
focus 12,-2,-1,-6,-1,-4 | for -1,2,-3,-1,0,3 | form -2,-4,-5,5,1,5 | four 3,1,2,2,-3,-5 | \frac 5,-1,-4,-1,-2,3
fraction -1,2,2,5,2,-9 | from 0,1,4,0,-1,-5 | function 11,-9,0,-5,-1,4 | \gcd -14,-2,-3,2,14,4
geometric 14,-4,-3,-4,-3,0 | graph 6,2,-5,2,-6,-1 | greatest -1,2,-3,1,6,-5 | had 2,7,-5,1,-4,-1
half 2,9,-1,-4,-6,-1 | has -1,1,-3,4,1,-2 | have 0,1,4,1,-2,-4 | he -1,5,2,-3,-1,-3 | height 4,-2,-1,9,-8,-2
her -4,1,0,2,4,-3 | hexagon -4,-1,-2,9,-2,-1 | his -3,3,1,2,-2,-2 | how -3,7,3,3,-1,-9 | if 1,1,1,0,-2,-2
in -3,2,0,2,-1,-1 | inches -4,3,-2,6,-4,1 | inclusive 0,-6,4,-4,9,-3 | inscribed 2,-8,-4,8,1,0
integer 1,-4,-3,2,6,-2 | integers 3,-6,4,-4,4,-1 | interest 16,-11,-3,-1,-1,0 | interval 7,-3,-1,-3,-4,4
inversely 17,-10,-1,-2,-2,-1 | isosceles -3,-1,2,9,-1,-5 | it 2,0,0,0,2,-5 | largest 1,1,2,-3,5,-6
\ldots -6,-3,1,0,9,-1 | \le 0,-8,2,-8,8,6 | least -2,-2,7,-2,1,-3 | left -6,3,-3,-2,10,-2 | \left 1,1,0,-3,-4,4
length -2,2,-1,6,-9,4 | lengths -2,-5,-4,5,-1,7 | less 3,3,-3,-6,4,-1 | let 2,-9,4,3,1,0
letters -6,2,10,-2,-2,-1 | \lfloor 6,-4,1,0,0,-4 | line -1,-6,-3,7,-2,6 | list 1,10,-2,-2,-4,-3
\log 12,-7,-3,-5,0,2 | long -4,1,-6,11,0,-2 | many -4,0,8,-2,5,-7 | \mathbf -15,-7,-3,-3,-2,30
mean -6,13,-4,-4,4,-2 | measure -7,8,-1,8,-4,-4 | measures -2,2,-4,10,-3,-3 | median -4,10,-4,4,-8,2
minimum 7,2,-3,6,-4,-8 | minutes 1,2,-2,0,-1,-1 | modulo -10,-6,-4,-2,23,-1 | more 1,4,-3,-3,3,-2
much -5,10,-3,4,-3,-2 | multiple -9,9,1,-4,7,-4 | must 1,-5,3,3,0,-3 | nearest -4,0,1,9,-6,0
no 2,-5,11,-3,-3,-2 | not -3,0,4,5,-1,-4 | number -4,0,5,-2,3,-2 | numbers 2,-4,2,-1,1,-1 | of -3,-1,0,5,0,0
one 0,1,1,-1,0,-1 | or -2,1,2,-1,0,-2 | over -6,-2,-2,3,9,-3 | \overline -8,3,-7,2,6,5
parabola 10,-2,-1,-8,-2,2 | pascal 1,-9,16,-3,-3,-1 | per 3,5,-5,-3,0,1 | perfect -7,-4,-1,-4,13,3
perimeter 3,5,0,2,-7,-3 | \pi -13,-2,-5,4,-4,19 | plane 3,-5,-2,-6,-2,11 | pmatrix -16,-9,-3,-3,-4,36
\pmod -11,-6,-6,-1,26,-2 | point 0,-5,-2,4,-7,10 | points 0,-6,2,4,-8,7 | polynomial 20,-5,-3,-2,-8,-1
polynomials 10,-4,2,-2,-4,-2 | positive -2,-1,1,-1,5,-2 | possible 1,-6,1,1,3,0 | prime -6,6,-3,3,9,-8
probability -16,-2,37,-6,-8,-4 | product 5,3,-8,-5,1,3 | quadratic 12,-5,-1,-2,-3,-2 | radians -11,-3,-2,3,-1,14
radius -4,-5,-6,10,-2,8 | rate 10,-2,-5,3,-5,-1 | real 16,-8,-9,-6,-6,13 | red -3,7,-2,1,-1,-2
region -3,-1,0,7,-5,1 | regular -8,-6,5,7,-5,7 | relatively -3,-4,2,9,-1,-3 | remainder 1,-8,7,-5,11,-6
remaining -3,4,-2,0,2,-1 | representation -2,-1,0,-1,5,-1 | respectively 1,-6,1,7,-2,-1 | rest 0,5,1,-5,-1,0
\rfloor 6,-4,1,0,0,-4 | right -3,4,1,6,4,-11 | \right 1,1,0,-3,-4,4 | roots 10,-2,-7,-3,-5,6
row 4,-6,5,-7,5,-2 | same 5,-1,0,-3,2,-4 | satisfy 5,1,0,0,-6,0 | sequence 10,-10,2,-2,-2,2 | set -3,3,6,2,-5,-3
she 7,6,-4,-9,-1,1 | side -3,-4,-1,4,-3,7 | sides 0,1,4,2,-5,-2 | simplify 3,7,-2,-5,-6,2
\sin -13,-12,-4,13,-5,21 | six -4,-1,7,-1,-1,1 | smallest -4,1,-5,-1,4,5 | solutions 6,-3,-3,-1,-3,3
\sqrt 6,2,2,0,-13,3 | square 5,6,-6,3,-2,-6 | students -2,4,0,-3,2,-1 | such 1,-5,2,2,1,-1 | sum 9,-1,2,-5,4,-8
surface -3,-4,-1,12,-2,-1 | take 1,4,2,-3,-6,2 | \tan -13,-11,-3,11,-3,19 | tangent 6,-6,-5,11,0,-7
term 6,-6,3,-4,2,-1 | terms 6,-1,-3,-2,-1,1 | \textbf -18,-6,6,15,11,-8 | th 1,-7,6,-5,4,2 | than 1,1,3,0,2,-7
that -2,-1,1,0,0,2 | then -3,-3,0,5,-6,7 | there -1,1,4,-5,-1,2 | these -3,5,4,-1,-3,-2
\theta -2,-3,-2,-3,-2,13 | they -4,4,2,-5,5,-3 | third -1,7,-1,-1,-5,2 | this 0,-1,0,0,4,-3
three 3,-1,2,-4,-1,1 | times -2,5,1,0,-5,1 | total 2,1,1,0,0,-4 | \triangle -7,-4,-1,18,5,-11
triangle -8,1,1,10,-13,9 | triangles -10,-2,7,9,-5,1 | two 2,-1,0,3,-4,-1 | units 1,1,-7,7,7,-9
value 8,-1,0,-3,1,-4 | values 5,-7,-6,3,5,1 | vertices 0,-8,4,11,-9,3 | vmatrix -16,-5,-2,-2,-1,25
volume -2,-12,-5,18,-5,5 | was 4,5,-7,-1,1,-2 | ways -9,-6,22,-4,-1,-2 | were 0,3,3,-3,0,-2
what -3,3,3,2,5,-10 | when 0,-4,-1,2,7,-4 | where 2,-10,-2,4,2,2 | which -3,-3,5,1,1,-2 | will 3,3,-2,-4,4,-4
with -3,-3,2,2,0,3 | xy 5,0,-1,1,-1,-4 | your 6,-3,-3,1,0,-2
"""
WEIGHTS: dict[str, tuple[int, ...]] = {
    word: tuple(int(weight) for weight in weights.split(","))
    for word, weights in (entry.split() for line in _TABLE.strip().splitlines() for entry in line.split(" | "))
}
"""Tenths of log-odds, by subject, of each word."""
