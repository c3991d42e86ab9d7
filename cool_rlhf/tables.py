"""Tables on the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def print_table(
    console: Console, title: str, rows: Sequence[Sequence[str]], *, header: bool = True
) -> None:
    """Print rows of text; the first one names the columns if `header`."""
    table = Table(title=title, show_header=header, title_justify="left")
    for name in rows[0] if header else [""] * len(rows[0]):
        table.add_column(name, overflow="fold")
    for row in rows[1:] if header else rows:
        table.add_row(*row)
    console.print(table)
