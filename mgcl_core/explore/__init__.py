"""What a person asks of one clip, of one run, of two variants.

Of a clip: `card`, `counterfactuals`; they take a run and any clips, also your own. Of a run on a split: `linked_map`,
`neighbours`, `attention`, `errors`, `worst`. Of several: `compare`, `vary`. What is asked of a split is asked of the
validation clips unless said otherwise: what one learns from test clips must not decide anything.

Everything shows itself in a notebook, and keeps its numbers in ``table`` and its picture in ``figure``.
"""

from .attention import attention
from .card import card
from .counterfactuals import counterfactuals
from .errors import compare, errors, worst
from .linked_map import linked_map
from .neighbours import neighbours
from .vary import vary

__all__ = ["attention", "card", "compare", "counterfactuals", "errors", "linked_map", "neighbours", "vary", "worst"]
