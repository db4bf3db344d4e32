"""Stories made readable: one line per event, or one page that needs nothing but a browser.

``as_text(story)`` is for terminals, logs and ``grep``; ``write_html(story, path)`` writes a page
with lanes, messages, faults, logs and a slider, which loads nothing from anywhere.
"""

from raftkv.testing.viewer.page import as_html, write_html
from raftkv.testing.viewer.standing import newest
from raftkv.testing.viewer.text import as_text

__all__ = ["as_html", "as_text", "newest", "write_html"]
