"""How the command line takes what goes wrong: a sentence on stderr, and an exit code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from salience import _interrupts
from salience._errors import SalienceError, SalienceWarning, printable
from salience._memory import ran_out_of_memory


@contextmanager
def user_errors(kept: str) -> Iterator[None]:
    """A user's mistake is a message and exit code 2, Ctrl-C one and 130; warnings are lines.

    kept  what is left of an interrupted command
    """

    def show(message: Warning | str, *rest: object, **more: object) -> None:
        typer.echo(printable(f"Warning: {message}"), err=True)

    _interrupts.keep(kept)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", SalienceWarning)
            warnings.showwarning = show
            yield
    except KeyboardInterrupt:
        _end(_interrupts.sentence(), _interrupts.EXIT_CODE)
    except SystemExit as end:  # of the network: it would be silence, or success
        told = f"SystemExit: {end}".removesuffix(": ")
        _end(f"Error: expected a network that returns; got {told}. Leave the exit out of it.", 2)
    except (SalienceError, NotImplementedError) as error:
        _end(f"Error: {error}", 2)
    except (OSError, RuntimeError, MemoryError) as error:
        if ran_out_of_memory(error):
            needs = "expected enough memory for one input"
            _end(f"Error: {needs}; got {error}. Use smaller inputs.", 2)
        # netCDF's library says so of full disks and files that cannot be read
        if not isinstance(error, OSError) and not str(error).startswith("NetCDF: "):
            raise
        wants = "expected to read and write files"
        _end(f"Error: {wants}; got {error}. Check the path and the disk.", 2)
    finally:
        _interrupts.keep()


def _end(message: str, code: int) -> NoReturn:
    typer.echo(printable(message), err=True)
    raise typer.Exit(code)
