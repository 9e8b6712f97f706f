"""A list among the arguments of a command: values separated by commas, those of several uses
together. Not here: the options of a session (session/option.py). A leaf."""

import argparse


def add_list(parser: argparse.ArgumentParser, flag: str, metavar: str, about: str) -> None:
    """Adds an option whose value is a list of texts, empty without it."""
    parser.add_argument(
        flag, type=_values, action="extend", default=[], metavar=metavar, help=about
    )


def _values(text: str) -> list[str]:
    values = [value.strip() for value in text.split(",") if value.strip()]
    if not values:
        raise argparse.ArgumentTypeError("it is empty: give a value, or leave it out")
    return values
