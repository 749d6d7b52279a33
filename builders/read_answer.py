r"""Read a teacher's answer out of its text, and compare answers.

A reply is *read* when it commits itself to one answer, else *unread*; unread is not wrong, and is kept apart.

How a reply is read, the first rule that finds something wins:

1. the last explicit conclusion: ``answer is ...``, ``Answer: ...``, ``\boxed{...}``, ``#### ...``, ``Therefore, B is
   correct``, ``<answer>B</answer>``. A negated one (``the answer is not B``, ``I don't think the answer is B``) is
   passed over; one that names two answers (``A or B``) or ``none of the above`` leaves the reply unread. Where one
   closes its paragraph and the model then runs on (into a summary of "all the answers", or another question), that one
   stands, unless what follows takes it back ("wait", "final answer", ...): `docs/findings.md` has the figures behind
   this;
2. for a choice: ``B is correct``, ``B is the right answer`` or ``the best option is B`` anywhere, the last one; then a
   closing line or sentence that is one option, or names exactly one (by its label in brackets, or in words) without a
   word of doubt;
3. for a number: the last number of the closing sentence, or the first one after its last ``=``.

A canonical number is exact, and equal values have equal texts: a decimal without exponent, grouping or trailing zeros
where the value has a finite one (``1,234.50`` -> ``1234.5``, ``1/2`` -> ``0.5``), else a fraction in lowest terms
(``2/6`` -> ``1/3``). Currency signs, units and a percent sign are dropped, not applied: ``50%`` is ``50``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from builders.numbers import canonical_number, number_in

MAX_TAIL = 20_000
"""Only the end of a longer text is searched: a conclusion stands there, and reading stays fast."""

_WINDOW = 300
_SHORT_TEXT = 200

Choices = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What was read: ``value`` is a label, canonical number or text; ``rationale`` the text without its answer line."""

    status: Literal["read", "unread"]
    value: str | None
    rationale: str


class _Asked(NamedTuple):
    """What the question allows as an answer."""

    task: str
    choices: Choices
    labels: frozenset[str]


class _Found(NamedTuple):
    """A conclusion at ``start``..``end``; ``value`` is None where it names no single answer."""

    start: int
    end: int
    value: str | None


# What may stand between the cue ("answer") and what it says.
_LINK = re.compile(
    r"(?:s?\s+(?:choice|option|letter|here|below|then|to\s[^.:\n]{1,80}?))?[\s*_\"'`)”’]*"
    r"(?:(?:is|are|was|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be|seems\s+to\s+be|can\s+be)\b|:|=|→|->|>|(?=\s*\())"
    r"(?:[\s:*_\"'`$~“‘]|\\\[|\\\(|(?:most\s+likely|most\s+probably|likely|clearly|indeed|probably|definitely|certainly|"
    r"obviously|surely|simply|therefore|thus|approximately|about)\b,?)*",
    re.IGNORECASE,
)
_MODAL = re.compile(r"(?:should|must|has\s+to|can|would)\s+be\b", re.IGNORECASE)
_NEGATED = re.compile(r"(?:not|neither|never|unlikely|cannot|can't|isn't|wrong|incorrect)\b|n't\b", re.IGNORECASE)
_ANSWER = re.compile("answer", re.IGNORECASE)
_NONE = re.compile(r"\W{0,3}none\s+of\s+the\b", re.IGNORECASE)
_DOUBTED = re.compile(
    r"(?:n['’]t|\bnot)\s+(?:think|believe|say|mean|sure|certain|clear|true)\s+(?:(?:that|if|whether)\s+)?"
    r"(?:the\s+)?(?:(?:final|correct|right|best)\s+)?$",
    re.IGNORECASE,
)
_NEXT_ANSWER = re.compile(r"\W{0,4}(?:the\s+)?(?:final\s+|correct\s+)?answer\b", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:[\s*_\"'`$(\[{:“‘]|\\(?:text|mathrm|textbf|mathbf|boxed|textit)\b|(?:the|option|choice|letter|answer)\b)*"
    r"([A-Za-z])(?![A-Za-z0-9'’])",
    re.IGNORECASE,
)
_SECOND = re.compile(
    r"[\s)\]}.*_\"'`$]*(?:\bor\b|\band\b|/|&|,)\s*(?:\bor\b|\band\b)?\s*(?:option\s+|choice\s+)?[(\[*\"'`]*([A-Z])"
    r"(?![A-Za-z0-9'’])(?!\W{0,3}\s*(?:is|are|was|would|has|does|can|cannot)\b)"
)
_JOINING = re.compile(r"\s+(?:because|since|as|and|or|which|with|for|due|is|but|based|\W)", re.IGNORECASE)
_DENIED = re.compile(r"[\s)\]*.]{0,4}\s(?:is|are|was)\s+(?:false|not|incorrect|wrong)\b", re.IGNORECASE)
_CLOSES_PARAGRAPH = re.compile(r"[ \t.!)*\]}$]*\n\s*(?:\n|Q(?:uestion)?\s*\d*\s*[.:])", re.IGNORECASE)
_TAKES_BACK = re.compile(
    r"\b(?:wait|actually|mistake\w*|correction|however|sorry|instead|apolog\w+|double[- ]check|re-?(?:check|consider|"
    r"evaluat|examin|calculat)\w*|final\s+answer|\\boxed)|\\boxed",
    re.IGNORECASE,
)
_LEAD_IN = frozenset(
    re.findall(
        r"\w+",
        "so hence thus therefore and then consequently accordingly which means finally the my our final correct best "
        "right most likely appropriate probable overall only is that option choice answer",
    )
)
_DANGLING = re.compile(r"(?:^|\n)\s*(?:step\s*\d+\s*[:.)]?|\d+[.)]|[-*#>]+)\s*$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$)(?<!\b(?:St|Dr|Mr|Ms|Mt|Ft)\.)(?<!\bMrs\.)|</answer>")
_LINE_END = re.compile(r"\n")
_BULLET = re.compile(r"[-–•]\s+")
_CLOSING_TAG = re.compile(r"\s*</answer>")
_SENTENCE_START = re.compile(r"\n|[.!?]\s")
_LABEL_IS_RIGHT = re.compile(
    r"(?:^|[\s*\[\"'“‘]|(?<![\w})\]])\()(?:(?:option|choice|answer|statement)\s+)?[(\[*\"']*([A-Z])[)\]*\"'.:]*(?:\s[^.\n]{0,80}?)?"
    r"\s+(?:is|would\s+be|must\s+be|seems)\s+(?:clearly\s+|indeed\s+)?(?:the\s+)?(?:most\s+|only\s+|best\s+)?$"
)
_ARTICLE = re.compile(r" (?!(?:is|would|must|seems)\b)[a-z]")  # "A dog is the answer"
_RIGHT = re.compile(r"correct|(?:right|best)\s+(?:answer|option|choice)|answer")
_BEST_IS = re.compile(
    r"\b(?:correct|best|right|final|likely|appropriate)\s+(?:option|choice)\s*(?:is|would\s+be|must\s+be|:)",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|so|conclu\w+|consequently)\b[^.\n]*$", re.IGNORECASE)
_DOUBTS = re.compile(
    r"\b(?:not|no|neither|never|cannot|less|least|unlikely|incorrect|wrong|false|although|but|possib\w+|may|might|could)\b"
    r"|n't\b",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"(?<![\w})\]])\(([A-Za-z])\)|(?<![\w(])([A-Z])\)")  # P(B) and f(a) name no option
_WHOLE_LABEL = re.compile(r"\W*([A-Za-z])\W*")
_LEADING_LABEL = re.compile(r"[\s*_(\[]*([A-Za-z])[)\].:]+(?:\s|\*|$)")
_OPENS_WITH_NUMBER = re.compile(r"\W*(?:between\s+|[a-z]\s*=\s*)?\W*\d", re.IGNORECASE)
_WORDS = re.compile(r"(?<![\w.)\]])-?\d+(?:[.,]\d+)*(?![^\W_])|[^\W_]+", re.UNICODE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_ARTICLES = frozenset(("a", "an", "the"))
_YES_NO = {"yes": "true", "true": "yes", "no": "false", "false": "no"}
_OPENING = " \t\r\n*_#<>($:,;\\[[“‘"
_TRIM = " \t\r\n*_\"'`$.,;:“”‘’"


def read_answer(text: str, task: str, choices: Choices = ()) -> Answer:
    """Read the answer that ``text`` commits itself to, by the rules at the head of this module.

    Args:
        text: a teacher's reply, without its ``<think>`` part.
        task: ``choice``, ``number`` or ``text``.
        choices: the options of a choice question, as ``{"label", "text"}``; labels are single letters.
    """
    offset = max(0, len(text) - MAX_TAIL)
    tail = text[offset:]
    asked = _Asked(task, choices, frozenset(c["label"] for c in choices))
    found = _explicit(tail, asked) or _implicit(tail, asked)
    if found is None or found.value is None:
        return Answer("unread", None, text.strip())
    return Answer("read", found.value, _without(text, offset + found.start, offset + found.end))


def same_answer(a: str, b: str, task: str) -> bool:
    """Whether two answers are equal: as labels, exact numbers, or texts without case, articles and punctuation."""
    if a == b:
        return True
    if task == "choice":
        return a.strip().upper() == b.strip().upper()
    left, right = canonical_number(a), canonical_number(b)
    if left is not None or right is not None or task == "number":
        return left is not None and left == right
    return bool(_plain(a)) and _plain(a) == _plain(b)


def grade(value: str | None, gold: str, task: str) -> bool:
    """Whether ``value`` is the gold answer; an unread answer (None) is not."""
    return value is not None and same_answer(value, gold, task)


def _explicit(text: str, asked: _Asked) -> _Found | None:
    """Return the explicit conclusion that stands last."""
    best = _last_conclusion(text, asked)
    return (_before_running_on(text, best, asked) or best) if best else None


def _before_running_on(text: str, last: _Found, asked: _Asked) -> _Found | None:
    """Return the earlier conclusion that closes its paragraph and is not taken back before ``last``."""
    for cue in _ANSWER.finditer(text, 0, last.start):
        found = _after_answer(text, cue.start(), asked)
        if found and found.value is not None and found.end < last.start and _CLOSES_PARAGRAPH.match(text, found.end):
            taken_back = _TAKES_BACK.search(text, found.end, last.end)
            return None if taken_back else _Found(found.start, len(text), found.value)
    return None


def _last_conclusion(text: str, asked: _Asked) -> _Found | None:
    best: _Found | None = None
    lower = text.lower()
    if len(lower) != len(text):  # a few letters change length in lower case, and positions must agree
        lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    for cue, read in _CUES:
        floor, end = (best.start if best else 0), len(lower)
        while (at := lower.rfind(cue, floor, end)) >= 0:
            found = read(text, at, asked)
            if found is not None:
                best = found
                break
            end = at
    return best


def _after_answer(text: str, at: int, asked: _Asked) -> _Found | None:
    link = _LINK.match(text, at + len("answer"), at + _WINDOW)
    if link is None or _NEGATED.match(text, link.end()) or _NEXT_ANSWER.match(text, link.end()):
        return None
    if text.startswith("/", at - 1) or _DOUBTED.search(text, max(0, at - 60), at):  # "I don't think the answer is A"
        return None
    if asked.task == "choice" and _MODAL.search(link[0]) and _label(text[link.end() : at + _WINDOW], asked) is None:
        return None  # "the answer must be a place" says what is asked for
    return _said(text, at, link.end(), asked)


def _after_hashes(text: str, at: int, asked: _Asked) -> _Found | None:
    if text.startswith("#", at + 4) or (at and text[at - 1] == "#"):
        return None
    return _said(text, at, at + 4, asked, _LINE_END)


def _in_box(text: str, at: int, asked: _Asked) -> _Found | None:
    start = at + len("\\boxed{")
    depth, end = 1, start
    for end in range(start, min(len(text), start + _WINDOW)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if not depth:
            break
    if depth:
        return None
    value = _value(text[start:end], asked)
    return _Found(at, end + 1, value) if value is not None else None


def _is_correct(text: str, at: int, asked: _Asked) -> _Found | None:
    """Read ``Therefore, (B) ... is`` standing before the word ``correct``."""
    found = _is_right(text, at, at + len("correct"), asked)
    return found if found and _CONCLUDES.search(text, max(0, found.start - 80), found.start + 1) else None


def _is_right(text: str, at: int, end: int, asked: _Asked) -> _Found | None:
    """Read the label before ``is`` and the word at ``at``..``end`` that says it is the answer."""
    if asked.task != "choice":
        return None
    before = _LABEL_IS_RIGHT.search(text, max(0, at - 120), at)
    if before is None or before[1] not in asked.labels:
        return None
    if before[1] in "AI" and _ARTICLE.match(text, before.end(1)):
        return None
    return _Found(before.start(1), end, before[1])


_CUES = (("answer", _after_answer), ("\\boxed{", _in_box), ("####", _after_hashes), ("correct", _is_correct))


def _said(text: str, at: int, start: int, asked: _Asked, ends_at: re.Pattern[str] = _SENTENCE_END) -> _Found | None:
    """Read what a cue at ``at`` says from ``start``: to the end of its line or sentence."""
    while start < len(text) and text[start].isspace():
        start += 1
    if "\n" in text[at:start] and (bullet := _BULLET.match(text, start)):  # "Answer:\n- 5 apples"
        start = bullet.end()
    stop = min(len(text), start + _WINDOW)
    ends = ends_at.search(text, start, stop)
    is_tag = ends and ends[0] == "</answer>"
    if ends and not is_tag and asked.task == "choice" and ends.start() - start <= 2:  # "B. 6 dollars": a label's point
        ends = ends_at.search(text, ends.end(), stop)
    end = ends.start() if ends else stop
    said = text[start:end]
    if closed := _CLOSING_TAG.match(text, end):
        end = closed.end()
    if asked.task == "choice" and (_NONE.match(said) or _names_two(said, asked)):
        value = _by_text(said, asked)
        return _Found(at, end, value)
    if asked.task == "choice" and (first := _LABEL.match(said)) and _DENIED.match(said, first.end()):
        return None
    value = _value(said, asked)
    if value is None:
        unsettled = asked.task == "number" and _OPENS_WITH_NUMBER.match(said)  # "5 or 6", "3 + 4"
        return _Found(at, end, None) if unsettled else None
    return _Found(at, end, value)


def _value(said: str, asked: _Asked) -> str | None:
    if asked.task == "choice":
        return _label(said, asked) or _by_text(said, asked)
    if asked.task == "number":
        return number_in(said)
    stripped = said.strip(_TRIM)
    return stripped or None


def _label(said: str, asked: _Asked) -> str | None:
    """Return the label that ``said`` opens with; a bare ``a`` or ``A`` before a word is an article, not a label."""
    match = _LABEL.match(said)
    if match is None:
        return None
    letter, after = match[1], said[match.end() : match.end() + 12]
    label = letter.upper()
    if label not in asked.labels:
        return None
    marked = after[:1] in (")", "]", "}", ".", ":", "*", ",") or not after.strip(_TRIM)
    if marked:
        return label
    if letter.islower():
        return None
    bare_article = label in ("A", "I") and after[:1] == " " and not _JOINING.match(after)
    if bare_article:
        return _by_text(said, asked) or (label if _text_follows(said[match.end() :], label, asked) else None)
    return label


def _text_follows(said: str, label: str, asked: _Asked) -> bool:
    own = next(_plain_option(c["text"]) for c in asked.choices if c["label"] == label)
    return bool(own) and _plain(said).startswith(own)


def _names_two(said: str, asked: _Asked) -> bool:
    """Whether ``said`` opens with two labels, as in ``(A) or (B)``."""
    first = _LABEL.match(said)
    if first is None or first[1] not in asked.labels:
        return False
    second = _SECOND.match(said, first.end())
    return second is not None and second[1] != first[1] and second[1] in asked.labels


def _by_text(said: str, asked: _Asked) -> str | None:
    """Return the label of the option that ``said`` states in words; the longest that fits, never one of two equals."""
    plain = _plain(said)
    if not plain:
        return None
    options = [(_plain_option(c["text"]), c["label"]) for c in asked.choices]
    if len(options) == 2 and all(text in _YES_NO for text, _ in options):
        options += [(_YES_NO[text], label) for text, label in options]
    fits = [(len(text), label) for text, label in options if text and plain == text]
    fits = fits or [(len(text), label) for text, label in options if text and _opens_with(text, plain, said)]
    if not fits:
        return None
    longest = max(fits)
    return longest[1] if sum(size == longest[0] for size, _ in fits) == 1 else None


def _opens_with(option: str, plain: str, said: str) -> bool:
    """Whether a phrase opens with an option; with one that is a number: comes to it, as ``5 x 2 = 10`` does to 10."""
    opens = plain.startswith(option + " ")
    if not (opens or "=" in said) or not _NUMBER.fullmatch(option):
        return opens
    return number_in(said) == canonical_number(option)


def _plain(text: str) -> str:
    """Lower-case words and numbers without articles and punctuation; the text itself where it has none."""
    words = [w.replace(",", "") for w in _WORDS.findall(text.casefold().replace("−", "-")) if w not in _ARTICLES]
    return " ".join(words) or text.strip().casefold()


@lru_cache(maxsize=8192)
def _plain_option(text: str) -> str:
    """`_plain`, remembered: the teachers of one question share its options."""
    return _plain(text)


def _implicit(text: str, asked: _Asked) -> _Found | None:
    """Read a text without an explicit conclusion from its close."""
    closing = text.rstrip()
    if not closing:
        return None
    if asked.task == "text":
        short = len(closing) <= _SHORT_TEXT and "\n" not in closing.strip()
        return _Found(0, len(text), closing.strip(_TRIM) or None) if short else None
    if asked.task == "number":
        value = number_in(_last_sentence(closing), last=True)
        # The closing sentence is part of the reasoning here: start = end keeps it in the rationale.
        return _Found(len(text), len(text), value) if value is not None else None
    return _choice_at_close(text, closing, asked)


def _choice_at_close(text: str, closing: str, asked: _Asked) -> _Found | None:
    if found := _best_option(text, asked):
        return found
    line = closing[closing.rfind("\n") + 1 :]
    start = len(closing) - len(line)
    whole, leading = _WHOLE_LABEL.fullmatch(line), _LEADING_LABEL.match(line)
    labels = asked.labels
    listed = _LEADING_LABEL.match(closing[closing.rfind("\n", 0, max(0, start - 1)) + 1 : start])
    if listed and leading:  # one of a list of options
        return None
    for match in (whole, leading):
        if match and match[1].upper() in labels:
            return _Found(start, len(closing), match[1].upper())
    sentence = _last_sentence(closing)
    named = {(a or b).upper() for a, b in _BRACKETED.findall(sentence)} & labels
    if len(named) == 1 and not _DOUBTS.search(sentence):
        return _Found(len(text), len(text), named.pop())
    if value := _by_exact_text(sentence, asked):
        return _Found(len(closing) - len(sentence), len(closing), value)
    value = None if _DOUBTS.search(sentence) else _only_option_in(sentence, asked)
    return _Found(len(text), len(text), value) if value else None


def _best_option(text: str, asked: _Asked) -> _Found | None:
    """Read ``B is correct``, ``B is the right answer`` or ``the best option is B``, the one that stands last."""
    found = [_is_right(text, match.start(), match.end(), asked) for match in _RIGHT.finditer(text)]
    found += [
        _said(text, match.start(), match.end(), asked)
        for match in (_BEST_IS.finditer(text) if "option" in text or "choice" in text else ())
        if not _NEGATED.match(text[match.end() :].lstrip())
    ]
    return max(filter(None, found), key=lambda one: one.start, default=None)


def _only_option_in(sentence: str, asked: _Asked) -> str | None:
    """Return the label of the one option whose words stand in ``sentence``."""
    words = f" {_plain(sentence)} "
    options = [(_plain_option(c["text"]), c["label"]) for c in asked.choices]
    named = [label for text, label in options if len(text) > 2 and f" {text} " in words]
    return named[0] if len(named) == 1 else None


def _by_exact_text(sentence: str, asked: _Asked) -> str | None:
    plain = _plain(sentence)
    same = [c["label"] for c in asked.choices if plain and _plain_option(c["text"]) == plain]
    return same[0] if len(same) == 1 else None


def _last_sentence(closing: str) -> str:
    """Return the last sentence of a text that ends without white space."""
    start = 0
    for match in _SENTENCE_START.finditer(closing, max(0, len(closing) - 2 * _WINDOW)):
        start = match.end()
    sentence = closing[start:].lstrip()
    bullet = _BULLET.match(sentence)
    return sentence[bullet.end() :] if bullet else sentence


def _without(text: str, start: int, end: int) -> str:
    """Drop the conclusion at ``start``..``end`` where it opens or closes the text; else keep the whole text."""
    if start >= end:
        return text.strip()
    kept = text[: _lead_in_start(text, start)].rstrip(_OPENING)
    after = text[end:].lstrip(_TRIM + ")]}\\!")
    if not kept.strip():
        return after.strip()
    if len(after) > _WINDOW // 3 or "\n" in after.strip():
        return text.strip()
    dangling = _DANGLING.search(kept, max(0, len(kept) - 20))
    return (kept[: dangling.start()] if dangling else kept).strip()


def _lead_in_start(text: str, at: int) -> int:
    """Return where words such as ``So the correct`` before the conclusion at ``at`` begin."""
    while True:
        while at and text[at - 1] in _OPENING:
            at -= 1
        word = at
        while word and text[word - 1].isalpha():
            word -= 1
        if text[word:at].lower() not in _LEAD_IN:
            return at
        at = word
