"""The language of a problem, of which formulas and numbers are no part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipes.curate.languages import LANGUAGES, language_of, natural
from tests.paths import DATA

SETS = Path(os.environ.get("K15_DATA", "/no/data"))
ENGLISH = [
    "math_train", "math_test_rest", "math500", "gsm8k_train", "gsm8k_test", "svamp", "mawps", "asdiv",
    "aime_1983_2023", "aime2024", "aime2025", "amc_2022_2023", "olympiadbench_oe_maths_en", "minerva_math",
    "gaokao2023en",
]  # fmt: skip
SENTENCES = {
    "de": [
        "Ein Zug fährt mit 80 km/h von Köln nach Bonn. Wie lange braucht er für 30 km?",
        "Berechne den Flächeninhalt des Dreiecks mit den Seiten $3$, $4$ und $5$.",
        "Wie viele Teiler hat die Zahl $360$?",
    ],
    "fr": [
        "Combien de nombres premiers y a-t-il entre 10 et 50 ?",
        "Soit $f(x) = x^2 - 4x$. Déterminer le minimum de la fonction.",
        "Un marchand achète 12 pommes et en vend les deux tiers. Combien lui en reste-t-il ?",
    ],
    "es": [
        "¿Cuántos divisores positivos tiene el número 360?",
        "Calcula el área de un rectángulo cuyos lados miden 4 cm y 7 cm.",
        "Ana tiene el doble de libros que Luis y entre los dos tienen 27. ¿Cuántos tiene Ana?",
    ],
    "it": [
        "Calcola la somma dei primi dieci numeri dispari.",
        "Quanti triangoli si possono formare con i vertici di un ottagono?",
        "Sia $p$ un numero primo maggiore di tre. Trova il resto della divisione di $p^2$ per 24.",
    ],
    "pt": [
        "Quantos números inteiros entre 1 e 100 são divisíveis por 7?",
        "Uma loja vende camisas por 30 reais com desconto de 20%. Qual é o preço final?",
        "Determine o valor de $x$ tal que a equação tenha duas soluções reais.",
    ],
    "nl": [
        "Hoeveel priemgetallen liggen er tussen 20 en 60?",
        "Bereken de oppervlakte van de driehoek met zijden $5$, $12$ en $13$.",
        "Een fietser rijdt twee uur met een snelheid van 18 km per uur. Hoe ver komt hij?",
    ],
    "pl": [
        "Ile jest liczb pierwszych mniejszych od 50?",
        "Oblicz pole trójkąta o bokach $3$, $4$ i $5$.",
        "Kasia ma trzy razy więcej jabłek niż Tomek. Razem mają 24 jabłka. Ile jabłek ma Kasia?",
    ],
    "ru": [
        "Найдите сумму первых ста натуральных чисел.",
        "Сколько делителей имеет число $720$?",
        "Поезд проехал 240 км за три часа. С какой средней скоростью он ехал?",
    ],
    "uk": [
        "Знайдіть площу трикутника зі сторонами $3$, $4$ і $5$.",
        "Скільки простих чисел розташовано між 10 і 40?",
        "Оленка має вдвічі більше яблук, ніж Петрик. Разом у них 18 яблук. Скільки яблук має Оленка?",
    ],
    "tr": [
        "Kenarları $3$, $4$ ve $5$ olan üçgenin alanını bulunuz.",
        "İlk yüz doğal sayının toplamı kaçtır?",
        "Bir araba saatte 60 km hızla üç saat gidiyor. Kaç kilometre yol alır?",
    ],
    "vi": [
        "Tính tổng của một trăm số tự nhiên đầu tiên.",
        "Có bao nhiêu số nguyên tố nhỏ hơn 50?",
        "Tìm diện tích của tam giác có các cạnh $3$, $4$ và $5$.",
    ],
    "zh": [
        "求方程 $x^2-5x+6=0$ 的所有实数根。",
        "小明有十二个苹果，吃了三个，还剩几个？",
        "设 $a_n$ 为等差数列，求前二十项之和。",
    ],
    "ja": [
        "次の方程式を解きなさい。$x^2-5x+6=0$",
        "三角形の面積を求めよ。",
        "りんごが12個あります。3個食べると何個残りますか。",
    ],
    "ko": [
        "다음 방정식을 만족하는 실수 $x$의 값을 구하시오.",
        "세 변의 길이가 3, 4, 5인 삼각형의 넓이는 얼마인가?",
        "철수는 사과를 열두 개 가지고 있다. 세 개를 먹으면 몇 개가 남는가?",
    ],
    "ar": [
        "ما هو مجموع أول مئة عدد طبيعي؟",
        "احسب مساحة المثلث الذي أطوال أضلاعه $3$ و $4$ و $5$.",
        "كم عدد الأعداد الأولية الأصغر من 50؟",
    ],
    "hi": [
        "पहली सौ प्राकृतिक संख्याओं का योग ज्ञात कीजिए।",
        "उस त्रिभुज का क्षेत्रफल निकालिए जिसकी भुजाएँ 3, 4 और 5 हैं।",
        "राम के पास बारह सेब हैं और वह तीन खा लेता है। अब कितने सेब बचे?",
    ],
    "sv": [
        "Hur många primtal finns det mellan 10 och 50?",
        "Beräkna arean av triangeln med sidorna $3$, $4$ och $5$.",
        "Anna har dubbelt så många äpplen som Erik. Tillsammans har de 18 äpplen. Hur många har Anna?",
    ],
    "cs": [
        "Kolik prvočísel leží mezi čísly 10 a 50?",
        "Vypočítejte obsah trojúhelníku se stranami $3$, $4$ a $5$.",
        "Vlak ujel 240 km za tři hodiny. Jakou průměrnou rychlostí jel?",
    ],
    "id": [
        "Berapa banyak bilangan prima yang kurang dari 50?",
        "Hitunglah luas segitiga yang panjang sisinya $3$, $4$, dan $5$.",
        "Sebuah mobil melaju dengan kecepatan 60 km per jam selama tiga jam. Berapa jarak yang ditempuh?",
    ],
    "el": [
        "Να βρεθεί το άθροισμα των πρώτων εκατό φυσικών αριθμών.",
        "Πόσοι πρώτοι αριθμοί υπάρχουν ανάμεσα στο 10 και στο 50;",
        "Υπολογίστε το εμβαδόν του τριγώνου με πλευρές $3$, $4$ και $5$.",
    ],
}


@pytest.mark.parametrize("language", SENTENCES)
def test_languages_are_told_apart(language: str) -> None:
    assert [language_of(sentence) for sentence in SENTENCES[language]] == [language] * 3


@pytest.mark.parametrize(
    "statement",
    ["", "$x^2 + y^2 = z^2$", "12 + 7 =", r"\[\int_0^1 f(x)\,dx\]", "f(x)", "Find $x$.",
     "[asy] draw the circle and the line; [/asy] 3",
     "```python\nfor value in values: print(value)\n```", "\x00 \ud800 \u200b"],
)  # fmt: skip
def test_of_too_little_text_the_language_is_not_told(statement: str) -> None:
    assert language_of(statement) == ""


def test_formulas_and_code_are_no_text() -> None:
    statement = (
        r"Sei $\text{the value of this}$ die Zahl der Teiler von \(and so on\). \textbf{Bestimme} `the_name` sie!"
    )
    assert natural(statement) == "sei die zahl der teiler von bestimme sie"
    assert language_of(statement) == "de"


def test_english_is_taken_for_nothing_else() -> None:
    rows = [json.loads(line) for line in (DATA / "formats.jsonl").open(encoding="utf-8")]
    found = [language_of(row["statement"]) for row in rows if row["origin"] != "own"]
    assert set(found) <= {"en", ""}
    assert found.count("en") > 0.85 * len(found)


@pytest.mark.slow
@pytest.mark.skipif(not (SETS / "math500.jsonl").exists(), reason="K15_DATA names no folder of data sets")
def test_of_the_english_sets_hardly_a_row_is_lost() -> None:
    lines = [line for name in ENGLISH for line in (SETS / f"{name}.jsonl").open(encoding="utf-8")]
    found = [language_of(json.loads(line)["problem"]) for line in lines]
    assert sum(language not in ("en", "") for language in found) <= 0.0002 * len(found)
    assert found.count("en") > 0.95 * len(found)


def test_the_model_is_loaded_when_it_is_needed() -> None:
    code = "import sys, recipes.curate.languages as room; assert not {'py3langid', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(set(LANGUAGES)) == len(LANGUAGES)


def test_hostile_text_takes_no_longer() -> None:
    language_of("The model is loaded by these words.")
    begin = time.process_time()
    for text in (
        "(",
        "\\[",
        "\\(",
        "$",
        "$$",
        "`",
        "```",
        "\\begin{a}",
        "{",
        "<a",
        "http://a",
        "a",
        "á",
        "求",
        "[asy]",
    ):
        language_of(text * (100_000 // len(text)))
    assert time.process_time() - begin < 3
