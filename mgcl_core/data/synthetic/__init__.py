"""Synthetic corpora, written as feature files; nothing in them is real data.

``demo`` and ``demo-mosi`` have something to learn (demo.py). The others have the sizes and shapes of the real corpora,
for measuring speed (shapes.py).
"""

from __future__ import annotations

import pickle
from pathlib import Path

from ...support.errors import ConfigError, nearest
from ...support.files import atomic
from ..corpus import SPLITS
from .demo import DEMOS, DemoCorpus
from .shapes import SHAPES, ShapedCorpus

#: Raise it whenever a corpus changes.
VERSION = 2
CORPORA: dict[str, DemoCorpus | ShapedCorpus] = {**DEMOS, **SHAPES}


def write_corpus(name: str, path: str | Path) -> None:
    """Write the feature file of a synthetic corpus, which is the same at every call.

    Args:
        name: One of ``CORPORA``.
        path: The file to write.

    Raises:
        ConfigError: The name is unknown, or the package of the tokeniser is missing.
    """
    if name not in CORPORA:
        raise ConfigError(f"no synthetic corpus is called {name!r}: {nearest(name, CORPORA)}")
    content = {split: CORPORA[name].split_fields(split) for split in SPLITS}
    with atomic(Path(path)) as temporary, temporary.open("wb") as file:
        pickle.dump(content, file, protocol=4)
