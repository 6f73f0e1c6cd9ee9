"""English sentences for the synthetic corpora, with sentiment planted in their words.

The macro cue is the overall wording: two adjectives of a grade from -3 to 3, whose sum is the macro level. The micro
cue is one interjection or adverb of a grade from -3 to 3, between two clauses or at an end of the sentence. Topic,
frame, position and the choice within a grade carry no sentiment.
"""

from __future__ import annotations

import numpy as np

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
#: Interjections and adverbs by grade, -3 to 3: the micro cue of a sentence is one of them.
INTERJECTIONS = {
    -3: ("horribly", "painfully"),
    -2: ("sadly", "unfortunately"),
    -1: ("strangely", "oddly"),
    0: ("apparently", "basically"),
    1: ("yes", "sure"),
    2: ("luckily", "happily"),
    3: ("wow", "splendid"),
}
#: Subjects, and aspects of them.
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
#: {n} the subject, {x} an aspect of it, {a} and {b} adjectives, | where the interjection may stand.
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


def make_sentence(rng: np.random.Generator, macro: int, micro: int) -> str:
    """Draw a sentence.

    Args:
        rng: Source of random numbers.
        macro: Macro level, -6 to 6.
        micro: Micro level, -3 to 3.
    """
    low, high = max(-3, macro - 3), min(3, macro + 3)
    first = int(np.clip(macro // 2 + rng.integers(-1, 2), low, high))  # the second is then in range too
    subjects, aspects = TOPICS[rng.integers(len(TOPICS))]
    filled = FRAMES[rng.integers(len(FRAMES))].format(
        n=rng.choice(subjects),
        x=rng.choice(aspects),
        a=rng.choice(ADJECTIVES[first]),
        b=rng.choice(ADJECTIVES[macro - first]),
    )
    clauses = [clause.strip() for clause in filled.split("|")[1:-1]]
    clauses.insert(int(rng.integers(len(clauses) + 1)), str(rng.choice(INTERJECTIONS[micro])))
    return " , ".join(clauses)
