"""`execbench report`: the table and the HTML page of results that exist already."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What `report` can write."""

    HTML = "html"
    TEXT = "text"


Directories = Annotated[list[Path], typer.Argument(help="Results directories.", metavar="DIR...")]
Formats = Annotated[Format, typer.Option("-f", "--format", help="html: table and page; text: 78 columns for mail.")]


def report(directories: Directories, format_: Formats = Format.HTML) -> int:
    """Print the comparison of finished results and write their HTML report."""
    from execbench import api
    from execbench.cli.render import finish, plain

    codes = [0]
    for directory in directories:
        results = api.load(directory)
        codes.append(plain(results) if format_ is Format.TEXT else finish(results))
    return max(codes)
