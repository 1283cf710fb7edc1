"""Formulas of the documentation as MathML, which browsers show without a script: a Markdown extension that reads `$x$`
in a line and `$$ x $$` as a paragraph, in LaTeX."""

from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert_to_element
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor


class Formula(InlineProcessor):
    """One formula; `display` is "inline" or "block"."""

    def __init__(self, pattern: str, display: str) -> None:
        super().__init__(pattern)
        self.display = display

    def handleMatch(self, m: Any, data: str) -> tuple[Element, int, int]:
        element = convert_to_element(m[1].strip(), display=self.display)
        return element, m.start(0), m.end(0)


class Formulas(Extension):
    """What `markdown_extensions` names."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(Formula(r"\$\$([^$]+)\$\$", "block"), "formula in a paragraph", 186)
        md.inlinePatterns.register(Formula(r"\$([^$\s](?:[^$]*[^$\s])?)\$", "inline"), "formula in a line", 185)


def makeExtension(**_: Any) -> Formulas:
    """Called by Markdown."""
    return Formulas()
