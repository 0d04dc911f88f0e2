"""The `execbench` command: parse, call one function of the API, render. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from execbench.cli.audit import audit
from execbench.cli.check import check
from execbench.cli.importing import app as import_app
from execbench.cli.listing import app as list_app
from execbench.cli.new import app as new_app
from execbench.cli.report import report
from execbench.cli.run import run
from execbench.cli.sweep import sweep
from execbench.cli.verify import verify
from execbench.errors import ExecbenchError

__all__ = ["app", "main"]

BUG, INTERRUPTED = 70, 130

app = typer.Typer(
    name="execbench",
    help="Simulate how kernels allocate memory for code: what each design costs, before it is built.",
    epilog="Exit codes: 0 done, 1 the answer is no, 2 input, 5 nothing measured, 70 a bug, 73 cannot write, "
    "74 damaged results, 130 interrupted (finished parts are kept).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(rich_help_panel="Measure")(run)
app.command(rich_help_panel="Measure")(sweep)
app.command(rich_help_panel="Read")(report)
app.command(rich_help_panel="Trust")(verify)
app.command(rich_help_panel="Trust")(check)
app.command(rich_help_panel="Trust")(audit)
app.add_typer(list_app, name="list", rich_help_panel="Set up")
app.add_typer(import_app, name="import", rich_help_panel="Set up")
app.add_typer(new_app, name="new", rich_help_panel="Set up")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"execbench {version('execbench')}")
        except PackageNotFoundError:  # run from a checkout that is not installed
            print("execbench (not installed)")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def _common(
    version: Version = False,
) -> None:
    """Options of the command itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: every error of ours is one message, a bug leaves a file."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="execbench", standalone_mode=False)
    except ExecbenchError as error:
        _say(str(error))
        return error.exit_code
    except typer.TyperException as error:
        if message := error.format_message().strip().rstrip("."):  # none where help was printed instead
            _say(f"{message}; see `execbench --help`")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:  # the last border before the user
        _say(_bug(error))
        return BUG
    if code == INTERRUPTED:  # outside of a study: `Interrupted` says what is kept
        _say("interrupted")
    return code if isinstance(code, int) else 0


def _say(message: str) -> None:
    print(f"execbench: {message}", file=sys.stderr)


def _bug(error: Exception) -> str:
    """Write the traceback to a file and return the one line that points to it."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="execbench-bug-", suffix=".txt", delete=False) as file:
        file.write(" ".join(sys.argv) + "\n")
        traceback.print_exception(error, file=file)
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return f"a bug in execbench ({words}); please report it with the traceback in {file.name}"
