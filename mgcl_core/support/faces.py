"""What an object shows of itself at a prompt and in a notebook: a title and a few facts, never its arrays."""

from __future__ import annotations

import html
from collections.abc import Mapping


class Face:
    """Base of what shows itself so; `face` gives the title and the facts by name."""

    def face(self) -> tuple[str, Mapping[str, object]]:
        """Title and facts, quick to say: nothing is computed and no array is read for them."""
        raise NotImplementedError

    def __repr__(self) -> str:
        title, facts = self.face()
        return "\n".join([title, *(f"  {name}: {fact}" for name, fact in facts.items())])

    def _repr_html_(self) -> str:
        title, facts = self.face()
        rows = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(str(fact))}</td></tr>'
            for name, fact in facts.items()
        )
        # This class keeps MathJax from the dollars of clip ids.
        return f'<div class="tex2jax_ignore mathjax_ignore"><b>{html.escape(title)}</b><table>{rows}</table></div>'
