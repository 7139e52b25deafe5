"""Text on the page: nothing in it is markup, and no mark in it turns the direction of reading around."""

import html

from pipeline.stage import visible


def escape(text: str, quote: bool = True) -> str:
    """Text as the page may hold it, in an attribute too."""
    return html.escape(visible(str(text)), quote)
