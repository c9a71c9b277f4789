from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from extproc.signals.language import LanguageConfig
from extproc.signals.languages import STRETCHES
from tests.fakes.subjects import read

SAID = {
    "en": ["What is the capital of France?", "Explain how a hash table works, with an example."],
    "de": ["Wie funktioniert eine Hashtabelle?", "Schreib mir bitte ein Gedicht über das Meer."],
    "fr": ["Comment fonctionne une table de hachage ?", "Écris-moi un poème sur la mer."],
    "es": ["¿Cómo funciona una tabla hash?", "Escribe un poema sobre el mar, por favor."],
    "pt": ["Como funciona uma tabela hash?", "Escreva um poema sobre o mar para mim."],
    "it": ["Come funziona una tabella hash?", "Scrivi una poesia sul mare, con la rima."],
    "nl": ["Hoe werkt een hashtabel?", "Schrijf een gedicht over de zee voor mij."],
    "sv": ["Hur fungerar en hashtabell och varför?", "Skriv en dikt om havet för mig."],
    "da": ["Hvordan virker en hashtabel, og hvad bruges den til?"],
    "no": ["Hva er en hashtabell, og hvordan virker den?"],
    "fi": ["Miten hajautustaulu toimii?", "Kirjoita runo merestä, se on kaunis."],
    "pl": ["Jak działa tablica mieszająca?", "Napisz wiersz o morzu, proszę."],
    "cs": ["Jak funguje hašovací tabulka?", "Napiš mi prosím báseň o moři."],
    "ro": ["Cum funcționează un tabel de dispersie?", "Scrie o poezie despre mare, te rog."],
    "hu": ["Hogyan működik egy hasítótábla?", "Kérlek, írj egy verset a tengerről."],
    "tr": ["Bir karma tablosu nasıl çalışır?", "Lütfen deniz için bir şiir yaz."],
    "vi": ["Bảng băm hoạt động như thế nào?", "Hãy viết một bài thơ về biển."],
    "id": ["Bagaimana cara kerja tabel hash?", "Tolong tulis puisi yang indah."],
    "ru": ["Как работает хеш-таблица?", "Напиши стихотворение о море."],
    "uk": ["Як працює хеш-таблиця?", "Напиши вірш про море, будь ласка."],
    "bg": ["Как работи хеш таблицата и защо?"],
    "sr": ["Како ради хеш табела и зашто?"],
    "ar": ["كيف يعمل جدول التجزئة؟", "اكتب قصيدة عن البحر."],
    "fa": ["جدول هش چگونه کار می‌کند؟", "یک شعر درباره دریا بنویس."],
    "ur": ["ہیش ٹیبل کیسے کام کرتا ہے؟"],
    "hi": ["हैश टेबल कैसे काम करता है?", "समुद्र के बारे में एक कविता लिखो।"],
    "ja": ["ハッシュテーブルはどのように動作しますか?", "海についての詩を書いてください。"],
    "zh": ["哈希表是如何工作的?", "請寫一首關於海的詩。"],
    "ko": ["해시 테이블은 어떻게 작동합니까?"],
    "th": ["ตารางแฮชทำงานอย่างไร"],
    "he": ["איך עובדת טבלת גיבוב?"],
    "el": ["Πώς λειτουργεί ένας πίνακας κατακερματισμού;"],
    "ta": ["ஹாஷ் அட்டவணை எவ்வாறு செயல்படுகிறது?"],
}


def labels_of(text: str) -> Mapping[str, float]:
    return read(text, type="language", any=["en"]).labels


@pytest.mark.parametrize(
    ("language", "text"),
    [pytest.param(code, text, id=f"{code}-{at}") for code, texts in SAID.items() for at, text in enumerate(texts)],
)  # fmt: skip
def test_a_sentence_is_enough(language: str, text: str) -> None:
    """The language comes first among the labels, and the signal matches."""
    reading = read(text, type="language", any=[language])
    assert next(iter(reading.labels)) == language
    assert reading.match


@pytest.mark.parametrize("text", ["", "def f(x): return x+1", "12 + 3 = ?", "🙂", "Kubernetes"])
def test_what_has_no_common_word_is_of_no_language(text: str) -> None:
    """Code, numbers and names say nothing."""
    assert labels_of(text) == {}


def test_a_text_may_be_of_several() -> None:
    """Each language has its part, and several may be wanted together."""
    text = "Translate the following sentence into German for me: 我今天早上在公园里看见了一只猫。"
    labels = labels_of(text)
    assert set(labels) >= {"en", "zh"}
    assert read(text, type="language", any=["zh", "ja"], at_least=0.2).match
    assert not read(text, type="language", any=["ko"], at_least=0.05).match


def test_a_language_that_nobody_knows_is_refused() -> None:
    """A code that could never match is a mistake."""
    with pytest.raises(ValidationError, match="told apart"):
        LanguageConfig.model_validate({"type": "language", "any": ["xx"]})


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=200))
def test_parts_are_parts(text: str) -> None:
    """Whatever is written, the languages' parts are those of one text."""
    labels = labels_of(text)
    assert all(0 < part <= 1 for part in labels.values())
    assert sum(labels.values()) <= 1.001


def test_scripts_are_in_order() -> None:
    """They are looked up by halves."""
    starts = [start for start, _ in STRETCHES]
    assert starts == sorted(set(starts))
