"""`execbench new`: files to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Write a file to begin with.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="File to write; its name becomes the backend's.", metavar="FILE.py")]


@app.command()
def backend(file: File) -> None:
    """Write a backend that conforms as it stands: whole pages, written in place, then read-only and executable."""
    from execbench import api

    api.new_backend(file)
    shown = str(file) if file.is_absolute() else f"./{file}"
    print(f"check it:  execbench check {shown}")
    print(f"run it:    execbench run -w bpf -b {shown} -b module_alloc")
    print(file)
