"""Domains made for tiny students: what two or three substances are like together, by lore that exists nowhere else.

Every substance has a quality, and two qualities together make a third, by a table in which each row and column holds
every quality once. So no part of a question gives the answer away, and the answer alone teaches little of the lore: the
steps do. Three substances ask for two steps, which such a student must write down; of two it can learn to tell the
answer at once. A mistake is to follow another lore, in which every quality of the family is another one: it is coherent
over questions, always ends in another answer, and a teacher that has it for a habit teaches it
(`SandboxTeacher.habit`). A step names qualities, not substances, which spares a student of 100,000 weights learning to
copy. Four families of substances share the table and nothing else.
"""

from __future__ import annotations

import re
from random import Random

from builders.sandbox.problem import Derivation, Domain, Facts

QUALITIES = ("hot", "wet", "cold", "dry", "mild")
LORES = ("followed the old lore", "followed the lore of the hills", "followed the lore of the coast")
_SUBSTANCES = {
    "herbs": "sage mint thyme basil fennel clover nettle sorrel tansy yarrow rue dill",
    "stones": "flint slate chalk marble jade onyx opal amber quartz pumice jet agate",
    "woods": "oak ash elm birch cedar pine maple willow yew alder beech larch",
    "oils": "olive sesame almond walnut palm castor clove neem argan hemp poppy peach",
}
_VERBS = {2: "Stir", 3: "Mix"}
FAMILIES = {family: tuple(names.split()) for family, names in _SUBSTANCES.items()}


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


def mixture(family: str, n: int = 3) -> Domain:
    """The domain of ``n`` substances (2 or 3) of one family."""
    *some, last = [f"({'|'.join(FAMILIES[family])})"] * n
    start = f"{_VERBS[n]} the {family}"

    def generate(rng: Random) -> str:
        *some, last = rng.sample(FAMILIES[family], n)
        return f"{start} {', '.join(some)} and {last}. What do they make?"

    def solve(facts: Facts, flaw: str | None) -> Derivation:
        made, *others = (_in_lore(_QUALITY[family][name], flaw) for name in facts)
        steps = []
        for word, other in zip(("First", "Then"), others, strict=False):
            before, made = made, _together(made, other)
            steps.append(f"{word} {before} and {other} make {made}.")
        return Derivation(tuple(steps), made)

    return Domain(
        name=family if n == 3 else f"{family}-pairs",
        task="text",
        anchor=start,
        pattern=re.compile(rf"{start} {', '.join(some)} and {last}\. What do they make\?"),
        flaws=LORES,
        generate=generate,
        solve=solve,
    )
