"""Invented people: banks of given and family names in several scripts.

A name that agrees with a real person's does so by chance. Ideographic and phonetic groups follow PS3.5 section 6.2.1.2
(``alphabetic=ideographic=phonetic``).
"""

from typing import NamedTuple

import numpy as np


class Name(NamedTuple):
    """A person's name: the DICOM value, and as people write it in a sentence."""

    dicom: str
    plain: str


_LATIN_FAMILY = ("Haldane", "Okafor", "Lindgren", "Petrov", "Marsh", "Devries", "Moreau", "Tanaka", "Quist", "Abara")
_LATIN_FEMALE = ("Ada", "Maria", "Ines", "Joan", "Clara", "Rosa", "Hanna", "Mei", "Fatima", "Olga", "Greta", "Noor")
_LATIN_MALE = ("Ivan", "Peter", "Omar", "Luis", "Erik", "John", "Hugo", "Ken", "Paul", "Amir", "Stefan", "Kofi")

# family names, given names of women, given names of men
_SIMPLE: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "latin": (_LATIN_FAMILY, _LATIN_FEMALE, _LATIN_MALE),
    "western": (
        ("Müller", "Åkesson", "Sørensen", "Gärtner", "Núñez", "Lefèvre", "Brännström", "Weiß"),
        ("Zoë", "Jasmín", "Ulrike", "Bérénice", "Märta", "Inês"),
        ("Jörg", "Søren", "Björn", "François", "Andrés", "Günther"),
    ),
    "cyrillic": (
        ("Орлов", "Гусев", "Белов", "Лесков", "Зимин", "Соколов"),
        ("Анна", "Вера", "Ольга", "Нина", "Тамара", "Зоя"),
        ("Пётр", "Игорь", "Борис", "Юрий", "Фёдор", "Лев"),
    ),
    "greek": (
        ("Παππάς", "Νικολάου", "Γεωργίου", "Δήμου", "Λαμπρός"),
        ("Ελένη", "Μαρία", "Σοφία", "Άννα", "Ζωή"),
        ("Νίκος", "Γιάννης", "Πέτρος", "Αλέξης", "Κώστας"),
    ),
}

_GROUPED: dict[str, tuple[tuple[str, str], ...]] = {
    "japanese": (
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "山田太郎"),
        ("Suzuki^Hanako=鈴木^花子=すずき^はなこ", "鈴木花子"),
        ("Tanaka^Ichirou=田中^一郎=たなか^いちろう", "田中一郎"),
        ("Satou^Yoshiko=佐藤^良子=さとう^よしこ", "佐藤良子"),
        ("Kimura^Kenji=木村^健二=きむら^けんじ", "木村健二"),
    ),
    "korean": (
        ("Hong^Gildong=洪^吉洞=홍^길동", "홍길동"),
        ("Kim^Minji=金^旼志=김^민지", "김민지"),
        ("Park^Jiho=朴^志浩=박^지호", "박지호"),
        ("Lee^Soyeon=李^素姸=이^소연", "이소연"),
    ),
    "chinese": (
        ("Wang^Xiaodong=王^小东", "王小东"),
        ("Zhang^Li=张^丽", "张丽"),
        ("Chen^Jianguo=陈^建国", "陈建国"),
        ("Liu^Fang=刘^芳", "刘芳"),
    ),
}

_MIXED = ("western", "cyrillic", "greek", "japanese", "korean", "chinese", "latin")


def draw_name(rng: np.random.Generator, script: str, sex: str) -> Name:
    """A name in ``script``: a key of the banks, or ``mixed`` for any of them.

    The grouped scripts do not tell women's names from men's.
    """
    if script == "mixed":
        script = _MIXED[int(rng.integers(len(_MIXED)))]
    if script in _GROUPED:
        bank = _GROUPED[script]
        return Name(*bank[int(rng.integers(len(bank)))])
    families, women, men = _SIMPLE[script]
    given = women if sex == "F" else men
    family, first = families[int(rng.integers(len(families)))], given[int(rng.integers(len(given)))]
    return Name(f"{family}^{first}", f"{first} {family}")


def draw_staff(rng: np.random.Generator) -> str:
    """A member of staff, DICOM value, in the default character repertoire."""
    names = _LATIN_FEMALE + _LATIN_MALE
    family, given = (bank[int(rng.integers(len(bank)))] for bank in (_LATIN_FAMILY, names))
    return f"{family}^{given}^^Dr"
