import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from extproc.signals.base import Reading, Subject
from extproc.signals.keyword import KeywordConfig
from extproc.signals.text import LONGEST_TEXT
from extproc.signals.words import occurs, similar
from looper.wire.chat import ChatRequest

thorough = settings(deadline=None, max_examples=300)


def read(text: str, **settings: Any) -> Reading:
    """The reading of a text, as a policy takes it."""
    config = KeywordConfig.model_validate({"type": "keyword", **settings})
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    request = ChatRequest.parse(json.dumps(body).encode())
    return config.build().read(Subject(request))


def found(word: str, text: str) -> bool:
    return read(text, any=[word]).match


class TestBoundaries:
    @pytest.mark.parametrize(
        ("word", "text", "match"),
        [
            pytest.param("code", "code", True, id="alone"),
            pytest.param("code", "my code.", True, id="between-others"),
            pytest.param("code", "(code)", True, id="brackets"),
            pytest.param("code", "code-review", True, id="hyphen"),
            pytest.param("code", "decode", False, id="end-of-a-word"),
            pytest.param("code", "codec", False, id="beginning-of-a-word"),
            pytest.param("code", "code2", False, id="digit"),
            pytest.param("code", "code_review", False, id="underscore"),
            pytest.param("code", "decode the code", True, id="second-hit"),
            pytest.param("code", "decodecodecode", False, id="hits-one-in-another"),
            pytest.param("code", "", False, id="no-text"),
            pytest.param("step by step", "go step by step now", True, id="phrase"),
            pytest.param(
                "step by step", "go step by  step now", False, id="phrase-with-other-spaces"
            ),
            pytest.param("step by step", "footstep by steps", False, id="phrase-in-words"),
            pytest.param("trade-off", "a trade-off?", True, id="hyphen-inside"),
            pytest.param("```", "a```b", True, id="no-letter-at-either-end"),
            pytest.param("def ", "x = 1\ndef f(): pass", True, id="letter-at-one-end"),
            pytest.param("def ", "undef f", False, id="letter-at-the-end-that-runs-on"),
            pytest.param("c++", "use c++17", True, id="plus-at-the-end"),
            pytest.param("c++", "gcc++", False, id="plus-behind-a-word"),
            pytest.param(".net", "asp.net", True, id="dot-at-the-beginning"),
            pytest.param("a", "a", True, id="one-letter"),
            pytest.param("1", "21", False, id="one-digit"),
            pytest.param("aa", "aaa aa", True, id="overlapping"),
        ],
    )
    def test_a_word_is_found_as_a_whole(self, word: str, text: str, match: bool) -> None:
        """Where a keyword begins or ends with a letter or digit, none may run on there."""
        assert found(word, text) is match

    @pytest.mark.parametrize(
        ("word", "text", "match"),
        [
            pytest.param("été", "un été chaud", True, id="french"),
            pytest.param("code", "un écode", False, id="a-letter-that-is-not-ascii-runs-on"),
            pytest.param("été", "répété", False, id="in-a-word-with-accents"),
            pytest.param("straße", "die straße", True, id="german"),
            pytest.param("straße", "hauptstraße", False, id="german-compound"),
            pytest.param("код", "мой код", True, id="russian"),
            pytest.param("код", "кодовый", False, id="russian-longer-word"),
            pytest.param("λόγος", "ο λόγος", True, id="greek"),
            pytest.param("كود", "هذا كود", True, id="arabic"),
            pytest.param("코드", "내 코드", True, id="korean"),
            pytest.param("हिन्दी", "यह हिन्दी है", True, id="hindi"),
            pytest.param("代码", "请写代码吧", True, id="chinese"),
            pytest.param("コード", "このコードを直して", True, id="japanese-katakana"),
            pytest.param("しらべる", "これをしらべるの", True, id="japanese-hiragana"),
            pytest.param("โค้ด", "ช่วยเขียนโค้ดให้หน่อย", True, id="thai"),
            pytest.param("កូដ", "សរសេរកូដនេះ", True, id="khmer"),
            pytest.param("𠮷野家", "今日は𠮷野家へ", True, id="beyond-the-basic-plane"),
            pytest.param("python", "用python写", True, id="latin-between-chinese"),
            pytest.param("python", "用pythonic写", False, id="latin-that-runs-on-between-chinese"),
            pytest.param("代码", "code代码code", True, id="chinese-between-latin"),
            pytest.param("🙂", "ok🙂ok", True, id="emoji"),
        ],
    )
    def test_in_every_script(self, word: str, text: str, match: bool) -> None:
        """Letters are letters in any script; scripts that write no spaces have no word ends to look for."""
        assert found(word, text) is match

    @pytest.mark.parametrize(
        ("word", "text"),
        [
            pytest.param("cafe", "cafe\u0301", id="accent-behind"),
            pytest.param("हिन", "हिन्दी", id="virama-behind"),
            pytest.param("न", "नी", id="vowel-sign-behind"),
            pytest.param("كتب", "كتبَ", id="arabic-vowel-behind"),
        ],
    )
    def test_a_mark_belongs_to_its_letter(self, word: str, text: str) -> None:
        """A combining mark behind a keyword makes its last letter another one, so that the word runs on."""
        assert not found(word, text)

    @pytest.mark.parametrize(
        ("word", "text"),
        [
            pytest.param("Prove", "pRoVe it", id="latin"),
            pytest.param("straße", "STRASSE", id="sharp-s-in-capitals"),
            pytest.param("STRASSE", "straße", id="sharp-s-in-the-text"),
            pytest.param("КОД", "код", id="cyrillic"),
            pytest.param("ΛΌΓΟΣ", "λόγος", id="greek-final-sigma"),
            pytest.param("İstanbul", "İSTANBUL", id="turkish-dotted-i"),
            pytest.param("ısı", "ısı", id="turkish-dotless-i"),
            pytest.param("ﬁx", "fix", id="ligature"),
        ],
    )
    def test_case_does_not_matter(self, word: str, text: str) -> None:
        """Keyword and text are folded alike, in every script that has cases."""
        assert found(word, text)

    @pytest.mark.parametrize(
        "term", ["password", {"regex": "pass(word|phrase)"}, {"fuzzy": "passwort"}]
    )
    @pytest.mark.parametrize(
        "text",
        ["ＰＡＳＳＷＯＲＤ", "pass\u200bword", "p\u00ada\u2060ssword", "𝐩𝐚𝐬𝐬𝐰𝐨𝐫𝐝"],
        ids=["full-width", "zero-width", "soft-hyphen", "bold"],
    )
    def test_a_disguise_does_not_matter(self, term: Any, text: str) -> None:
        """Words are looked for in what a model reads."""
        assert read(f"my {text} please", any=[term]).match

    def test_a_regex_still_sees_what_was_written(self) -> None:
        """Who looks for a sign that nobody sees finds it."""
        assert read("a\u200bb", any=[{"regex": "\u200b"}]).match

    @pytest.mark.parametrize("word", ["\u200b", "\u00ad \ufeff"])
    def test_a_word_that_nobody_sees_is_refused(self, word: str) -> None:
        """It would match everything."""
        with pytest.raises(ValidationError):
            KeywordConfig.model_validate({"type": "keyword", "any": [word]})


def read_of(*messages: tuple[str, str], **settings: Any) -> bool:
    said = [{"role": role, "content": text} for role, text in messages]
    request = ChatRequest.parse(json.dumps({"model": "m", "messages": said}).encode())
    config = KeywordConfig.model_validate({"type": "keyword", "any": ["prove"], **settings})
    return config.build().read(Subject(request)).match


class TestRoles:
    @pytest.mark.parametrize("role", ["user", "User", "USER", " user", "ｕｓｅｒ", "us\u200ber"])
    def test_the_user_is_the_user_however_written(self, role: str) -> None:
        """Lenient servers take all of them."""
        assert read_of((role, "prove"))

    @pytest.mark.parametrize(
        ("roles", "found"),
        [
            (["user"], {"user"}),
            (["system", "developer"], {"system", "developer"}),
            (["user", "tool"], {"user", "tool"}),
            ("all", {"user", "system", "developer", "assistant", "tool", "stranger", ""}),
        ],
        ids=["default", "instructions", "two", "all"],
    )
    def test_whose_messages_are_looked_at(self, roles: Any, found: set[str]) -> None:
        """Those of these roles; `all` asks for none."""
        known = ("user", "system", "developer", "assistant", "tool", "stranger", "")
        assert {role for role in known if read_of((role, "prove"), roles=roles)} == found

    @pytest.mark.parametrize("roles", [[], ["User"], ["stranger"], "user"])
    def test_other_roles_are_refused(self, roles: Any) -> None:
        with pytest.raises(ValidationError):
            KeywordConfig.model_validate({"type": "keyword", "any": ["a"], "roles": roles})


PADDING = "x " * LONGEST_TEXT


class TestUnread:
    @pytest.mark.parametrize(
        ("settings", "text", "partial"),
        [
            pytest.param({"any": ["bad"]}, f"{PADDING}bad{PADDING}", True, id="hidden"),
            pytest.param({"any": ["bad"]}, f"bad {PADDING}", False, id="found"),
            pytest.param({"all": ["bad", "x"]}, f"{PADDING}bad{PADDING}", True, id="all"),
            pytest.param({"none": ["bad"]}, f"{PADDING}bad{PADDING}", True, id="none-hidden"),
            pytest.param({"none": ["bad"]}, f"bad {PADDING}", False, id="none-found"),
            pytest.param({"any": ["bad"]}, "x", False, id="whole"),
        ],
    )
    def test_a_reading_says_whether_more_text_could_change_it(
        self, settings: Any, text: str, partial: bool
    ) -> None:
        """What was found is there; what was not may stand in what was not looked at."""
        assert read(text, **settings).partial is partial


class TestReading:
    @pytest.mark.parametrize(
        ("settings", "text", "hits"),
        [
            pytest.param({"any": ["a", "b"]}, "b", ("b",), id="any-one"),
            pytest.param({"any": ["a", "b"]}, "b a", ("a", "b"), id="any-both"),
            pytest.param({"any": ["a", "b"]}, "c", None, id="any-neither"),
            pytest.param({"all": ["a", "b"]}, "b a", ("a", "b"), id="all"),
            pytest.param({"all": ["a", "b"]}, "a", None, id="all-but-one"),
            pytest.param({"none": ["a"]}, "b", (), id="none"),
            pytest.param({"none": ["a", "b"]}, "b", None, id="none-but-one"),
            pytest.param({"none": ["a"]}, "", (), id="none-in-nothing"),
            pytest.param({"all": ["a"], "any": ["b", "c"]}, "a c", ("a", "c"), id="all-and-any"),
            pytest.param({"all": ["a"], "any": ["b", "c"]}, "a", None, id="all-without-any"),
            pytest.param({"all": ["a"], "any": ["b"]}, "b", None, id="any-without-all"),
            pytest.param({"any": ["a"], "none": ["b"]}, "a", ("a",), id="any-without-none"),
            pytest.param({"any": ["a"], "none": ["b"]}, "a b", None, id="any-with-none"),
            pytest.param({"all": ["a"], "none": ["b"]}, "a b", None, id="all-with-none"),
        ],
    )  # fmt: skip
    def test_each_setting_must_hold(
        self, settings: dict[str, list[str]], text: str, hits: tuple[str, ...] | None
    ) -> None:
        """At least one of `any`, each of `all`, none of `none`; what is left out asks for nothing."""
        match = hits is not None
        expected = Reading(match=match, score=float(match), hits=hits or ())
        assert read(text, **settings) == expected

    def test_hits_are_the_configurations_words(self) -> None:
        """What is logged was written by the operator, never by the client."""
        assert read("please PROVE it", any=["Prove"]).hits == ("Prove",)

    @pytest.mark.parametrize(
        "settings",
        [{}, {"any": []}, {"any": [""]}, {"any": [" \t"]}, {"none": ["a", "\n"]}, {"any": "word"}, {"words": ["a"]}],
        ids=["nothing", "empty-list", "empty-word", "blank-word", "line-end", "text-for-list", "unknown-key"],
    )  # fmt: skip
    def test_settings_that_would_match_everything_or_nothing_are_refused(
        self, settings: dict[str, Any]
    ) -> None:
        """A signal asks for something, and never for a blank."""
        with pytest.raises(ValidationError):
            KeywordConfig.model_validate({"type": "keyword", **settings})


class TestRegex:
    @pytest.mark.parametrize(
        ("regex", "text", "match"),
        [
            pytest.param(r"theorem \d+", "by Theorem 12", True, id="case-does-not-count"),
            pytest.param(r"(?-i)Theorem", "theorem", False, id="unless-it-says-so"),
            pytest.param("ТЕОРЕМА", "теорема", True, id="cyrillic"),
            pytest.param("定理[0-9]+", "由定理3可知", True, id="chinese"),
            pytest.param("มาตรา [0-9]+", "ตามมาตรา 5", True, id="thai"),
            pytest.param("^b$", "a\nb", False, id="the-text-is-one"),
            pytest.param("(?m)^b$", "a\nb", True, id="or-lines"),
        ],
    )
    def test_is_searched_in_the_text(self, regex: str, text: str, match: bool) -> None:
        """Anywhere, in any script."""
        reading = read(text, any=[{"regex": regex}])
        assert (reading.match, reading.hits) == (match, (regex,) if match else ())

    @pytest.mark.parametrize("regex", ["a*", "(", "(?=a)", "", "a|"])
    def test_what_matches_everything_or_is_none_is_refused(self, regex: str) -> None:
        """So is what RE2 does not take: it could stall the process."""
        with pytest.raises(ValidationError):
            KeywordConfig.model_validate({"type": "keyword", "any": [{"regex": regex}]})


class TestFuzzy:
    @pytest.mark.parametrize(
        ("fuzzy", "distance", "text", "match"),
        [
            pytest.param("prove", 1, "please prove it", True, id="as-it-is"),
            pytest.param("prove", 1, "please porve it", True, id="swapped"),
            pytest.param("prove", 1, "please prov it", True, id="missing"),
            pytest.param("prove", 1, "please proove it", True, id="too-many"),
            pytest.param("prove", 1, "please prive it", True, id="wrong"),
            pytest.param("prove", 1, "please priv it", False, id="two-faults"),
            pytest.param("prove", 1, "improved", False, id="inside-another"),
            pytest.param("derivative", 2, "the dervitive", True, id="two-faults-in-a-long-word"),
            pytest.param("derivative", 2, "the drvitve", False, id="three-faults"),
            pytest.param("Straße", 1, "hier ist die STRASE", True, id="german"),
            pytest.param("доказать", 1, "надо докзать", True, id="cyrillic"),
            pytest.param("متوسط", 1, "ما هو متوصط", True, id="arabic"),
        ],
    )
    def test_a_misspelt_word_is_found(
        self, fuzzy: str, distance: int, text: str, match: bool
    ) -> None:
        """With so many faults and no more; the hit is the word as it should be."""
        reading = read(text, any=[{"fuzzy": fuzzy, "distance": distance}])
        assert (reading.match, reading.hits) == (match, (fuzzy,) if match else ())

    @pytest.mark.parametrize(
        "term",
        [
            {"fuzzy": "abc"},
            {"fuzzy": "abcdefg", "distance": 2},
            {"fuzzy": "two words"},
            {"fuzzy": "代码代码"},
            {"fuzzy": "prove", "distance": 3},
            {"fuzzy": "prove", "distance": 0},
        ],
        ids=["short", "short-for-two", "phrase", "no-spaces", "too-far", "nothing"],
    )
    def test_words_for_which_it_makes_no_sense_are_refused(self, term: dict[str, Any]) -> None:
        """Short words are near to nearly everything."""
        with pytest.raises(ValidationError):
            KeywordConfig.model_validate({"type": "keyword", "any": [term]})

    @thorough
    @given(
        st.text("abcdefgh", min_size=8, max_size=12),
        st.text("abcdefgh", min_size=1, max_size=14),
        st.integers(1, 2),
    )
    def test_the_short_cut_loses_nothing(self, word: str, other: str, distance: int) -> None:
        """Words that share no piece with the one in question differ too much anyway."""
        match = read(f"x {other} x", any=[{"fuzzy": word, "distance": distance}]).match
        assert match == similar(word, other, distance)


def letter(character: str) -> bool:
    """A letter, a digit or an underscore: what may not run on in the texts of the tests below."""
    return character.isalnum() or character == "_"


def naive(word: str, text: str) -> bool:
    """The rule, place by place."""
    for at in range(len(text) - len(word) + 1):
        end = at + len(word)
        if text[at:end] != word:
            continue
        left = letter(word[0]) and at > 0 and letter(text[at - 1])
        right = letter(word[-1]) and end < len(text) and letter(text[end])
        if not left and not right:
            return True
    return False


alphabet = st.sampled_from("ab1_ é.-`")


@thorough
@given(st.text(alphabet, min_size=1, max_size=4).filter(str.strip), st.text(alphabet, max_size=20))
def test_agrees_with_the_naive_search(word: str, text: str) -> None:
    """A keyword is found exactly where looking at each place finds it."""
    assert occurs(word, text) == naive(word, text)


@thorough
@given(
    st.text(alphabet, min_size=1, max_size=4).filter(str.strip),
    st.text(st.characters(), max_size=20),
    st.text(st.characters(), max_size=20),
)
def test_a_word_between_spaces_is_always_found(word: str, before: str, behind: str) -> None:
    """Whatever else a text holds, it does not hide a word that stands alone."""
    assert occurs(word, f"{before} {word} {behind}")


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    ("word", "text"),
    [
        pytest.param("a", "a" * MEGABYTE, id="one-letter"),
        pytest.param("aaa", "a" * MEGABYTE, id="run-of-a-letter"),
        pytest.param("a" * 500, "a" * MEGABYTE, id="long-run"),
        pytest.param("a" * 500 + "b", "a" * MEGABYTE, id="long-run-and-no-end"),
        pytest.param("b" + "a" * 500, "a" * MEGABYTE, id="long-run-and-no-beginning"),
        pytest.param("abab", "ab" * (MEGABYTE // 2), id="pairs"),
        pytest.param("aaa", "aaa1 " * (MEGABYTE // 5), id="near-misses"),
        pytest.param("é" * 100, "é" * (MEGABYTE // 2), id="not-ascii"),
    ],
)
def test_no_text_stalls_the_process(word: str, text: str) -> None:
    """The worst megabyte that a client can write costs no more than a few looks at each of its characters."""
    begun = time.process_time()
    assert sum(1 for _ in text) == len(text)
    one_look = time.process_time() - begun
    begun = time.process_time()
    assert not occurs(word, text)
    assert time.process_time() - begun < 8 * one_look + 0.01
