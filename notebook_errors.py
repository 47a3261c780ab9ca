"""How our errors look in a notebook: what, why, how to fix it and which document, without a traceback.

Errors of any other kind are bugs, and keep their traceback. Knows nothing of what the cells do.
"""

from __future__ import annotations

import sys
import warnings
from types import TracebackType
from typing import Any

from data_contract import ProductError


def plain_errors(shell: Any = None) -> None:
    """Let a notebook's kernel tell the product's errors in words; outside a notebook, this does nothing.

    Parameters
    ----------
    shell : InteractiveShell, optional
        The kernel's; found by itself.
    """
    # A library asks for widgets to draw a progress bar with that nobody sees: the training reports line by line.
    warnings.filterwarnings("ignore", message="IProgress not found")
    if shell is None and "IPython" in sys.modules:
        shell = sys.modules["IPython"].get_ipython()
    if shell is not None:
        shell.set_custom_exc((ProductError,), _tell)


def _tell(
    shell: Any, kind: type[BaseException], error: BaseException, traceback: TracebackType, tb_offset: int | None = None
) -> list[str]:
    """IPython's handler: gives the lines that stand in the cell's output instead of a traceback."""
    del traceback, tb_offset
    lines = str(error).splitlines()
    shell._showtraceback(kind, error, lines)  # what IPython does with the lines of a traceback
    return lines


def _self_check() -> None:
    class Shell:
        def __init__(self) -> None:
            self.shown: list[str] = []

        def set_custom_exc(self, kinds: tuple[type[BaseException], ...], handler: Any) -> None:
            self.kinds, self.handler = kinds, handler

        def _showtraceback(self, kind: type[BaseException], error: BaseException, lines: list[str]) -> None:
            del kind, error
            self.shown = lines

    shell = Shell()
    plain_errors(shell)
    assert shell.kinds == (ProductError,)
    shell.handler(shell, ProductError, ProductError("wrong", why="because", fix="mend it"), None)
    assert "wrong" in shell.shown[0]
    print("✅ All tests passed")


if __name__ == "__main__":
    _self_check()
