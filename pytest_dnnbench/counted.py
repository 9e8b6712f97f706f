"""Numbers with their nouns, as messages write them: `1 case`, `2 launches`. A leaf: imports nothing
of ours."""

_HISSING = ("s", "x", "ch", "sh")


def counted(number: int, noun: str) -> str:
    """The number and the noun, in the plural unless there is one: `1 history`, `12,000 bytes`."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a regular noun, which may end a phrase: `case`, `launch`, `timed history`."""
    if noun.endswith(_HISSING):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def verb(number: int, singular: str, several: str) -> str:
    """The form of a verb beside so many: `is` or `are`."""
    return singular if number == 1 else several
