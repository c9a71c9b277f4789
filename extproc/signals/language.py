"""Which languages did the user write in? By their scripts, and where several share one, by their commonest words."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from extproc.signals.base import Reading, SignalSetting, Subject
from extproc.signals.languages import LANGUAGES, LETTERS, STRETCHES, WORDS
from extproc.signals.words import spelling
from looper.settings import Probability
from looper.wire.tokens import ends

_LOOKED_AT = 4_096
_NAMED = 0.05
"""The part of a text below which a language is not named."""

_TELLING = 0.3
"""What words have to say at least: less is chance."""

_WIDE = 2.5
"""A character of Chinese, Japanese or Korean counts as so many letters."""

_KANA = 0.1
"""The part of Japanese that is written in kana at least; in Chinese there are none."""


def _known(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"not one of those that are told apart: {', '.join(sorted(LANGUAGES))}")
    return language


Language = Annotated[str, AfterValidator(_known)]


class LanguageConfig(SignalSetting):
    """`{type: language, any: [de, fr]}`"""

    type: Literal["language"]
    any: tuple[Language, ...] = Field(min_length=1, description="codes of ISO 639-1")
    at_least: Probability = Field(
        default=0.5, description="the part of the text that is written in one of them"
    )

    def label_names(self) -> tuple[str, ...]:
        return tuple(sorted(LANGUAGES))

    def build(self) -> "LanguageSignal":
        return LanguageSignal(self)


class LanguageSignal:
    """Reads a `language` signal."""

    def __init__(self, config: LanguageConfig) -> None:
        self._config = config

    def read(self, subject: Subject) -> Reading:
        user = subject.user
        sample = ends(user.folded, _LOOKED_AT)
        labels = languages(sample, user.spelling if sample is user.folded else spelling(sample))
        share = min(1.0, sum(labels.get(each, 0.0) for each in dict.fromkeys(self._config.any)))
        match = share > 0 and share >= self._config.at_least
        return Reading(match, share, labels=labels, partial=not user.is_whole)


def languages(text: str, words: Iterable[str]) -> Mapping[str, float]:
    """The languages of a case-folded text, each with its part of it. What cannot be told is nobody's."""
    letters = {} if text.isascii() else Counter(text)
    scripts = _scripts(letters) if letters else {"latin": 1.0}
    whole = sum(scripts.values())
    counted = Counter(words) if scripts.keys() & WORDS.keys() else Counter[str]()
    shares: dict[str, float] = {}
    for script, size in scripts.items():
        for language, part in _of_script(script, counted, letters, scripts).items():
            shares[language] = shares.get(language, 0.0) + part * size / whole
    ranked = sorted(shares.items(), key=lambda share: (-share[1], _RANK.get(share[0], 0)))
    return {language: round(part, 4) for language, part in ranked if part >= _NAMED}


_RANK = {language: at for of in WORDS.values() for at, language in enumerate(of)}
_STARTS = [start for start, _ in STRETCHES]


def _scripts(letters: Mapping[str, int]) -> dict[str, float]:
    """How much of a text each script makes up."""
    scripts: dict[str, float] = {}
    for letter, number in letters.items():
        script = STRETCHES[bisect_right(_STARTS, ord(letter)) - 1][1]
        if script is not None:
            weight = _WIDE if script in ("han", "kana", "ko") else 1.0
            scripts[script] = scripts.get(script, 0.0) + number * weight
    return scripts


def _of_script(
    script: str, words: Mapping[str, int], letters: Mapping[str, int], scripts: Mapping[str, float]
) -> Mapping[str, float]:
    """The languages that a text's part in one script is written in."""
    match script:
        case "kana":
            return {"ja": 1.0}
        case "han":
            kana = scripts.get("kana", 0.0)
            return {"ja": 1.0} if kana >= _KANA * (kana + scripts["han"]) else {"zh": 1.0}
        case _ if script in WORDS:
            return _by_words(script, words, letters)
        case _:
            return {script: 1.0}


def _by_words(
    script: str, words: Mapping[str, int], letters: Mapping[str, int]
) -> Mapping[str, float]:
    """Common words count, the less the more languages have them; so do letters that few languages have."""
    says: dict[str, float] = {}
    _add(says, words, _WORDS_OF[script])
    _add(says, letters, _LETTERS_OF[script])
    if max(says.values(), default=0.0) < _TELLING:
        return {}
    clear = {language: much * much for language, much in says.items()}
    whole = sum(clear.values())
    return {language: much / whole for language, much in clear.items()}


def _add(
    says: dict[str, float], found: Mapping[str, int], owners: Mapping[str, tuple[str, ...]]
) -> None:
    for what in found.keys() & owners.keys():
        for language in owners[what]:
            says[language] = says.get(language, 0.0) + found[what] / len(owners[what])


def _owners(of: Mapping[str, Iterable[str]]) -> Mapping[str, tuple[str, ...]]:
    """The languages that have each word, or letter."""
    owners: dict[str, tuple[str, ...]] = {}
    for language, things in of.items():
        for thing in dict.fromkeys(things):
            owners[thing] = (*owners.get(thing, ()), language)
    return owners


_WORDS_OF = {
    script: _owners({language: words.split() for language, words in of.items()})
    for script, of in WORDS.items()
}
_LETTERS_OF = {script: _owners(of) for script, of in LETTERS.items()}
