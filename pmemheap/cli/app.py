"""App: the commands of `pmemheap`, gathered, and the one place where an error ends them."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any

import typer

import pmemheap
from pmemheap.cli.checking import check
from pmemheap.cli.completing import show_completion
from pmemheap.cli.copying import snapshot
from pmemheap.cli.demo import demo
from pmemheap.cli.dumping import dump
from pmemheap.cli.exits import EXPECTED, ExitCode, code_of, line_of
from pmemheap.cli.files import create, info, trim
from pmemheap.cli.leaking import leaks
from pmemheap.cli.mapping import draw_map
from pmemheap.cli.mending import repair, salvage
from pmemheap.cli.recommending import recommend
from pmemheap.cli.replaying import replay
from pmemheap.cli.show import outlets
from pmemheap.cli.watching import stats, top

__all__ = ["app", "run"]

app: typer.Typer = typer.Typer(
    name="pmemheap",
    help="Heaps that grow in place, in memory or in a file: make them, look into them, try them.",
    epilog="Exit codes: 0 done, 1 damage was found, 2 wrong call, 3 corrupt file, 4 no space, "
    "5 not written to the medium, 70 a mistake in pmemheap, 130 interrupted, 141 the reader left.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _each in (
    demo, create, info, check, dump, leaks, repair, salvage, stats, top, snapshot, trim, replay,
    recommend,
):  # fmt: skip
    app.command()(_each)
app.command("map")(draw_map)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pmemheap {pmemheap.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    with outlets() as out, _warnings_in_words():
        try:
            code = _run(arguments)
            sys.stdout.flush()
        except EXPECTED as error:
            sys.stderr.write(line_of(error) + "\n")
            return int(code_of(error))
        except Exception:  # 1, which Python would end with, says that damage was found
            traceback.print_exc()
            return int(ExitCode.MISTAKE)
    return int(ExitCode.CUT_OFF) if out.is_cut and code == ExitCode.DONE else code


@contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Print warnings as errors are printed; where in the code they stand tells nobody anything."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        sys.stderr.write(line_of(f"warning: {message}") + "\n")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


@cache
def _command() -> Any:
    """Return what `app` calls; it would put it together anew at each call."""
    return typer.main.get_command(app)


def _run(arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) == 2 and words[0] == "--show-completion":
        return show_completion(_command(), words[1])
    try:
        _command()(args=arguments, prog_name="pmemheap")
    except SystemExit as done:
        return int(done.code) if isinstance(done.code, int) else 0
    return 0
