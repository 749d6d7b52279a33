"""Domains made for tiny students: what three substances are like together, by lore that exists nowhere else.

Every substance has a quality, and two qualities together make a third, by a table in which each row and column holds
every quality once. So no part of a question gives the answer away, and the answer alone teaches little of the lore: the
steps do. A mistake is to follow another lore, in which every quality of the family is another one: it is coherent over
questions, always ends in another answer, and a teacher that has it for a habit teaches it (`SandboxTeacher.habit`). A step names qualities, not substances, which spares a student of
100,000 weights learning to copy. Four families of substances share the table and nothing else.
"""

from __future__ import annotations

import re
from random import Random

from builders.sandbox.problem import Derivation, Domain, Facts

QUALITIES = ("hot", "wet", "cold", "dry", "mild")
LORES = ("followed the old lore", "followed the lore of the hills", "followed the lore of the coast")
FAMILIES: dict[str, tuple[str, ...]] = {
    "herbs": (
        "sage",
        "mint",
        "thyme",
        "basil",
        "fennel",
        "clover",
        "nettle",
        "sorrel",
        "tansy",
        "yarrow",
        "rue",
        "dill",
    ),
    "stones": (
        "flint",
        "slate",
        "chalk",
        "marble",
        "jade",
        "onyx",
        "opal",
        "amber",
        "quartz",
        "pumice",
        "jet",
        "agate",
    ),
    "woods": ("oak", "ash", "elm", "birch", "cedar", "pine", "maple", "willow", "yew", "alder", "beech", "larch"),
    "oils": (
        "olive",
        "sesame",
        "almond",
        "walnut",
        "palm",
        "castor",
        "clove",
        "neem",
        "argan",
        "hemp",
        "poppy",
        "peach",
    ),
}


def _qualities(family: str) -> dict[str, str]:
    """Substance -> quality: every quality about as often, in an order that nothing else follows."""
    dealt = [QUALITIES[i % len(QUALITIES)] for i in range(len(FAMILIES[family]))]
    Random(f"mixtures-{family}").shuffle(dealt)
    return dict(zip(FAMILIES[family], dealt, strict=True))


_QUALITY = {family: _qualities(family) for family in FAMILIES}


def _together(a: str, b: str) -> str:
    return QUALITIES[(3 * (QUALITIES.index(a) + QUALITIES.index(b)) + 1) % len(QUALITIES)]


def _in_lore(quality: str, lore: str | None) -> str:
    """The quality that a lore gives a substance which really has this one."""
    return QUALITIES[(QUALITIES.index(quality) + (LORES.index(lore) + 1 if lore else 0)) % len(QUALITIES)]


def mixture(family: str) -> Domain:
    """The domain of one family of substances."""

    def generate(rng: Random) -> str:
        a, b, c = rng.sample(FAMILIES[family], 3)
        return f"Mix the {family} {a}, {b} and {c}. What do they make?"

    def solve(facts: Facts, flaw: str | None) -> Derivation:
        first, second, third = (_in_lore(_QUALITY[family][name], flaw) for name in facts)
        both = _together(first, second)
        end = _together(both, third)
        steps = (f"First {first} and {second} make {both}.", f"Then {both} and {third} make {end}.")
        return Derivation(steps, end)

    names = "|".join(FAMILIES[family])
    return Domain(
        name=family,
        task="text",
        anchor=f"Mix the {family}",
        pattern=re.compile(rf"Mix the {family} ({names}), ({names}) and ({names})\. What do they make\?"),
        flaws=LORES,
        generate=generate,
        solve=solve,
    )
