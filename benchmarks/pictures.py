"""Charts of a benchmark as files that the documentation shows."""

from pathlib import Path

PICTURES = Path("docs/pictures")


def save(name: str, picture: str) -> None:
    """Save an inline SVG as docs/pictures/NAME.svg: alone it needs its namespace."""
    PICTURES.mkdir(exist_ok=True)
    alone = picture.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    (PICTURES / f"{name}.svg").write_text(alone)
