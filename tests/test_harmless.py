"""Text of others, whatever is in it, moves no cursor, forges no line and is no markup."""

import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_dnnbench import harmless

CONTROLS = [
    letter
    for letter in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")
]
texts = st.text(st.sampled_from(CONTROLS[:400]) | st.characters() | st.sampled_from("`|\\<>[]@#"))


def test_every_control_of_unicode_is_replaced() -> None:
    assert len(CONTROLS) > 1000
    assert "\x1b" in CONTROLS
    assert "\u202e" in CONTROLS
    assert "\ud800" in CONTROLS
    shown = harmless.one_line("".join(CONTROLS))
    assert set(shown) == {"\N{REPLACEMENT CHARACTER}"}
    assert len(shown) == len(CONTROLS)


@given(texts)
def test_a_line_is_one_printable_line_of_as_many_letters(text: str) -> None:
    line = harmless.one_line(text)
    assert line.isprintable()
    assert len(line) == len(text)
    assert all(new == old for new, old in zip(line, text, strict=True) if old.isprintable())
    line.encode()  # no half of a pair


@given(st.lists(texts, max_size=5))
def test_as_many_lines_are_shown_as_were_composed(several: list[str]) -> None:
    assert harmless.lines(several).count("\n") == max(len(several) - 1, 0)


@given(texts)
def test_a_block_keeps_its_line_breaks_and_nothing_else(text: str) -> None:
    block = harmless.text_block(text)
    assert block.count("\n") == text.count("\n")
    assert block.replace("\n", "").isprintable()


def test_a_refusal_keeps_its_begin_and_its_end() -> None:
    text = f"file.json: {'9' * 100_000} is too much: write less"
    line = harmless.refusal(text)
    assert len(line) == harmless.LONGEST_REFUSAL
    assert line.startswith("file.json: 999")
    assert line.endswith("is too much: write less")
    assert harmless.refusal("short\x1b[31m") == "short\N{REPLACEMENT CHARACTER}[31m"


CODE = re.compile(r"`[^`]*`")
ESCAPED = re.compile(r"\\[\\`*_\[\]|~$]|&(?:amp|lt|gt);")


@given(texts)
def test_markdown_text_has_no_live_markup(text: str) -> None:
    shown = harmless.markdown_text(text)
    assert shown.isprintable()
    # Escapes go first, where no code span begins before them; then the spans.
    bare = re.sub(f"{ESCAPED.pattern}|{CODE.pattern}", "", shown)
    assert not set(bare) & set("\\`*_[]|~$<>@#"), shown
    assert "://" not in bare
    assert "|" not in "".join(CODE.findall(shown))


@given(texts)
def test_markdown_code_is_one_span(text: str) -> None:
    shown = harmless.markdown_code(text)
    if shown:
        assert CODE.fullmatch(shown)
    assert "|" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2.13.0", "2.13.0"),
        ("a_b <img src=x>", r"a\_b &lt;img src=x&gt;"),
        ("![a](http://b) @everyone", "`![a](http://b)` `@everyone`"),
        ("see #12 of www.x.org", "see `#12` of `www.x.org`"),
        ("a|b", r"a\|b"),
        ("x\n| forged |", "x\N{REPLACEMENT CHARACTER}\\| forged \\|"),
        ("`` @me|you ``", r"\`\` `@me¦you` \`\`"),
    ],
)
def test_markdown_shows_the_text_and_does_nothing(text: str, shown: str) -> None:
    assert harmless.markdown_text(text) == shown
