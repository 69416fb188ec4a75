r"""Spellings of one answer, separated by `` | `` and maybe continued; the first is the reference. All are right."""

from __future__ import annotations

EQUAL = r"""
42 | 042 | 42.0 | +42 | 42. | \,42\, | \text{42} | \mathbf{42} | {42} | (42) | x=42 | 42 = x | \frac{84}{2} | n = 42
    | 42\text{ apples} | 42 \text{ cm}^2 | \$42 | 42\% | 42^\circ | \mathrm{42} | \left(42\right) | \frac{42}{1}
    | 42 \text{ square units} | m+n=42 | \angle ABC = 42^\circ | \text{Area}=42 | 42 apples | \boxed{42} | $42$
    | \(42\)
1234567 | 1,234,567 | 1{,}234{,}567 | 1,\!234,\!567 | 1\,234\,567 | 1234567.00 | \$1,234,567
1,234 | 1234 | 1{,}234 | 1,\!234
10{,}000 | 10000 | 10^4 | 10,000 | 1 \times 10^4 | 1\cdot 10^{4} | 1e4
0.5 | \frac12 | \frac{1}{2} | 1/2 | .5 | 0.50 | \dfrac{1}{2} | \tfrac12 | 5 \times 10^{-1} | \frac{2}{4} | 2^{-1}
    | \frac{0.5}{1}
\frac{1}{2} | 0.5 | 1/2 | \frac{-1}{-2} | \frac{1}{2}\text{ meters}
-\frac{3}{4} | \frac{-3}{4} | -0.75 | \frac{3}{-4} | -3/4 | −\frac34 | -\dfrac{3}{4} | -\left(\frac{3}{4}\right)
1\frac{4}{5} | \frac{9}{5} | 1.8 | 1 4/5 | 1 \frac{4}{5} | 9/5 | 1\tfrac45
\frac13 | 0.\overline{3} | 0.3\overline{3} | \frac{2}{6}
50\% | 50 | 50 \% | 50 percent | 50\text{ percent} | 50%
62.5% | 62.5\% | 62.5 | \frac{125}{2}\% | 62\frac12\%
3.83e35 | 3.83 \times 10^{35} | 3.83 \cdot 10^{35} | 38.3\times10^{34}
2.5 \times 10^{-3} | 0.0025 | 2.5e-3 | \frac{1}{400}
6.02\times10^{23}\text{ mol}^{-1} | 6.02 \times 10^{23}
2, 3 | {2, 3} | {{3, 2}} | {2}, {3} | \boxed{2}, \boxed{3}
-5 | -(5) | -5.0 | x=-5
1.5\text{ hours} | 90\text{ minutes} | 1.5 | 1\frac12\text{ h}
5\text{ cm} | 5 | 5\text{ centimeters} | 50\text{ mm} | 5 cm | 5 \mathrm{cm} | 0.05\text{ m} | 5\,\text{cm}
864 \mbox{ inches}^2 | 864 | 864\text{ square inches} | 864 \text{ in}^2 | 6 \text{ ft}^2
5.4 \text{ cents} | 5.4 | \$0.054 | 5.4 \text{ cents}
90^\circ | 90 | 90^{\circ} | 90\text{ degrees} | 90° | 90\degree | 90 degrees
\$32,\!348 | 32348 | \$32,348 | 32,348 \text{ dollars} | \$32348.00
\$18.90 | 18.9 | \$18.90 | 18.90
\text{Evelyn} | Evelyn | \text{evelyn} | \textbf{Evelyn} | Evelyn.
\text{east} | east | East | \text{East} | \mathrm{east}
\text{(C)} | C | (C) | \text{C} | \textbf{(C)} | \text{(C) } 12 | (C)\ 12 | \textbf{(C)}\ \frac12 | C.
A | \text{A} | (A) | \text{(A)} | A) 5
\{1, 2\} | \{2, 1\} | 1, 2 | \left\{1,2\right\} | 2,1 | \{1,2,1\} | 1 \text{ and } 2
1,-2 | -2, 1 | x=1, x=-2 | 1 \text{ or } -2 | x=1 \text{ or } x=-2 | x = 1, -2 | \{1,-2\} | -2 and 1 | 1;-2
$5$ or $9$ | 5, 9 | 9 or 5 | x=5 \text{ or } 9
(3, \frac{\pi}{2}) | \left( 3, \frac{\pi}{2} \right) | (3.0, \pi/2) | (r,\theta) = (3, \frac{\pi}{2})
    | \left(3,\tfrac{\pi}2\right)
(2,\infty) | x > 2 | x \in (2, \infty) | 2 < x | (2,+\infty) | \{x \mid x > 2\}
(-\infty, 2) \cup (3, \infty) | (3,\infty)\cup(-\infty,2) | x\in(-\infty,2)\cup(3,\infty) | x<2 \text{ or } x>3
[-2,1) | -2 \le x < 1 | \{x|-2\leq x < 1\} | 1 > x \ge -2
\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix} | \begin{pmatrix} -\frac13 \\ \frac23 \end{pmatrix}
    | \begin{bmatrix} -1/3 \\ 2/3 \end{bmatrix} | \left(\begin{array}{c}-1/3\\2/3\end{array}\right)
\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix} | \begin{bmatrix}-1&0\\0&-1\\\end{bmatrix}
y = 2x + 3 | 2x+3 | y=3+2x | 2x - y + 3 = 0 | y - 3 = 2x | 2x+3=y
5x - 7y + 11z + 4 = 0 | -5x+7y-11z-4=0 | 10x-14y+22z+8=0 | 5x+11z=7y-4
\frac{x^{2}}{2} - \frac{y^{2}}{4}=1 | 2x^2-y^2=4 | \frac{x^2}{2}=1+\frac{y^2}{4}
204_5 | 204_{5} | 204 | 204_{\text{five}} | 204_{five} | (204)_5
4:30\text{ p.m.} | 4:30 PM | 4:30 p.m. | 4:30\text{ pm} | 4:30pm
9\text{ a.m.} | 9 AM | 9:00 a.m. | 9\text{ am}
05\!:\!00 | 5:00 | 05:00 | 5:00 p.m.
m+n=5 | m+n=5 | n+m=5
3:15 | 1:5 | \frac15 | 3:15
3:4 | 6:8 | \frac34 | 3 : 4 | 0.75
1 \pm \sqrt{19} | 1+\sqrt{19}, 1-\sqrt{19} | \pm\sqrt{19}+1 | 1-\sqrt{19} \text{ and } 1+\sqrt{19}
    | x = 1 \pm \sqrt{19} | \{1 \pm \sqrt{19}\}
\{1\pm\sqrt{5},-2\} | -2, 1+\sqrt5, 1-\sqrt5 | -2, 1\pm\sqrt5
x^2-4 | (x-2)(x+2) | (x+2)(x-2) | x^2 - 2^2 | -(4-x^2) | x\cdot x-4 | y=x^2-4
(a+5)(b+2) | (b+2)(a+5) | ab+2a+5b+10
\frac{11+9a}{20} | \frac{11}{20}+\frac{9a}{20} | 0.55+0.45a | \frac{9a + 11}{20}
3\sqrt{13} | \sqrt{117} | 3 \sqrt {13} | \sqrt{13}\cdot 3 | 3\cdot\sqrt{13} | 3*sqrt(13) | 3(13)^{1/2}
\frac{\sqrt{3}}{3} | \frac{1}{\sqrt3} | \sqrt{\frac13} | \frac13\sqrt{3} | \frac{3}{3\sqrt3} | \sqrt3/3
\frac{8}{\sqrt[3]{7}} | \frac{8\sqrt[3]{49}}{7} | 8 \cdot 7^{-1/3}
1+274i | 274i+1 | 1+274 i
1+2i | 2i + 1 | 1 + 2 \cdot i
\cot x | \frac{\cos x}{\sin x} | \frac{1}{\tan x} | \cot{x} | \cot(x)
\sin^2 t | (\sin t)^2 | 1-\cos^2 t | \sin^{2}(t) | \frac{1-\cos 2t}{2}
\ln 2 + i\pi / 3 | \ln(2)+\frac{i\pi}{3}
\log_2 3 | \frac{\ln 3}{\ln 2} | \frac{\log 3}{\log 2} | \log_{2}(3)
2^{1009} | 2 \cdot 2^{1008} | 2^{1009} | 4^{504} \cdot 2
\binom{2n}{n} | \frac{(2n)!}{(n!)^2} | \frac{(2n)!}{n!\,n!} | {2n \choose n} | C_{2n}^{n}
\frac{n(n+1)}{2} | \binom{n+1}{2} | \frac{n^2+n}{2} | n(n+1)/2
\lceil n/2 \rceil+1 | \lfloor (n+1)/2 \rfloor + 1 | \lceil\frac{n}{2}\rceil + 1
10! | 3628800 | 10\cdot 9!
e^{-1} | \frac1e | 1/e | \exp(-1)
f(x)=2x | 2x | f(x) = x+x | f(x)=2 x
\frac{\pi}{3} | \pi/3 | \frac13\pi
12\pi | 12 \pi | 12 \cdot \pi | \pi\cdot12 | 12π | 12\pi \text{ cm}
20000/\pi | \frac{20000}{\pi}
c x^{-2}-\frac{\cos (2 x)}{2 x^{2}} | \frac{2c-\cos 2x}{2x^2} | \frac{c}{x^2} - \frac{\cos(2x)}{2x^2}
100 p^{\frac{1}{2}} | 100\sqrt{p}
\sqrt{x^2+1}-x | \frac{1}{\sqrt{x^2+1}+x}
np.arcsin(10/13) | \arcsin(10/13)
C_{400}^{40} \cdot C_{200}^{20} | \binom{400}{40}\binom{200}{20}
x=\frac{1}{6} \pi+\pi k, \frac{1}{3} \pi+\pi k | x = \frac{\pi}{6}+k\pi, x=\frac{\pi}{3}+k\pi
(-\sqrt{3}, \sqrt{3}) | (-\sqrt{3},\sqrt{3}) | -\sqrt3<x<\sqrt3
2k+2 | 2(k+1) | 2k + 2
\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right] | [\pi^2/8, 5\pi^2/4] | \frac{\pi^2}{8}\le y \le\frac{5\pi^2}{4}
36\sqrt{7}cm^{3} | 36\sqrt7 | 36\sqrt{7}\text{ cm}^3
1:58 am | 1:58 a.m. | 1:58\text{ AM}
\text{A,B,E} | A, B, E | A,B,E | E, A, B | \text{A, B and E}
\text{October 30} | October 30 | \text{october 30}
x^2+x+1 | 1+x+x^2 | \frac{x^3-1}{x-1}
-1,0,1 | 0, 1, -1 | 0,\pm1
\frac{1}{29,\!322,\!216} | \frac{1}{29322216} | 1/29322216
b > a > c | c<a<b | b>a>c
\mathbb{R} | \mathbb{R} | \mathbb R
\emptyset | \varnothing | \{\}
864 \text{ inches}^2 | 864 \text{ sq. inches}
\approx 8.24 \text{ mph} | 8.24 | 8.24\text{ miles per hour}
3R^2 | 3 R^{2} | R^2 \cdot 3
7.6 Z | 7.6Z
+2 | 2
"""


def pairs() -> list[tuple[str, str]]:
    """``(reference, spelling)``, each reference with itself too."""
    found = []
    for line in EQUAL.replace("\n    | ", " | ").strip().splitlines():
        reference, *spellings = (part.strip() for part in line.split(" | "))
        found += [(reference, spelling) for spelling in (reference, *spellings)]
    return found
