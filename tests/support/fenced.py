"""The fenced blocks of the documents, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, empty where the page names none, and its text."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [Block(language, text) for language, text in _BLOCK.findall(page.read_text())]


def commands(block: Block) -> list[str]:
    """Return the commands of a block, without comments and with single spaces."""
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in block.text.splitlines())
    return [re.sub(r" +", " ", line) for line in lines if line]
