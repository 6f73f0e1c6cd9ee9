"""Names that people give to files, corpora and clips, as folders and as text that any output takes."""

from __future__ import annotations

import re
import unicodedata

_LONGEST = 48


def folder_name(name: str, suffix: str = "") -> str:
    """Give a folder's name for ``name``: one part of a path, visible, the same on every system.

    Letters and digits of any script stay, and so do dots, hyphens and plus signs within. All else becomes ``_``.

    Args:
        name: Any text.
        suffix: What tells it from another name that would have the same folder; set after a hyphen.
    """
    text = re.sub(r"[^\w.+-]", "_", unicodedata.normalize("NFC", name))[:_LONGEST].strip(".-") or "_"
    return f"{text}-{suffix}" if suffix else text


def printable(text: str) -> str:
    """Replace what no font, terminal or LaTeX shows by its escape: control characters and halves of surrogate pairs."""
    return re.sub(
        "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda found: found[0].encode("unicode_escape").decode(), text
    )
