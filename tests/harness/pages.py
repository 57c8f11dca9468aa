"""The pages that people read, and the blocks of code in them."""

import re
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
PAGES = [README, *sorted((TOP / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A fenced block of a page; `kind` is its info string."""

    page: Path
    kind: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Return its commands, without their comments."""
        commands = (re.sub(r"\s{2,}#.*", "", line) for line in self.text.splitlines())
        return [line for line in commands if line.strip() and not line.startswith("#")]


def blocks(*kinds: str) -> list[Block]:
    """Return the blocks of all pages, of these kinds or of all."""
    found = [
        Block(page, *parts)
        for page in PAGES
        for parts in re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    ]
    return [block for block in found if not kinds or block.kind in kinds]


def named(block: Block) -> str:
    """Return a name for a block as a test's parameter."""
    return f"{block.page.name}: {block.text.splitlines()[0][:40]}"
