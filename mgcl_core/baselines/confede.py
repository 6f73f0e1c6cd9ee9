"""ConFEDE: contrastive feature decomposition (Yang et al. 2023, ACL).

Every modality of a clip is split into a similar and a dissimilar feature. Each clip learns beside six others
of the training split: two whose embeddings are near and whose labels are equal, two far ones and two near ones
with other labels. Over these seven clips a contrastive loss draws the similar features of one clip together
around its text, and pushes its dissimilar features, and the clips with other labels, away.

Where this follows the paper rather than the authors' repository (github.com/XpastaX/ConFEDE):

- Retrieval returns clips, and never the clip itself. The authors' loaders return ranks and use them as row numbers, so
  that nearly every clip is given the same few neighbours: all three at commit 2bac6fb. Another version of MOSEI's
  (169d38a) returns clips, with the clip itself as the first of its equals.
- Means over steps leave padding out, where theirs run over all steps.
- Text is the [CLS] state of stage one's fine-tuned encoder, frozen, without BERT's pooler on top. Theirs is frozen in
  training mode, with dropout.
- Retrieved audio and vision come from a memory of their last encoding (`ConFEDESettings.encode_retrieved`).
- The text encoder is stage one's, trained as all systems have it. The authors train its head alone in the first third
  of the epochs, on MOSI longer, and on CH-SIMS on y_T, with the last layer alone; there they also choose the epoch by
  Acc-2. ``docs/baselines.md`` has the settings for this.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.batches import Batch, DeviceSplit
from ..data.corpus import MODALITIES
from ..data.valid_steps import masked_mean
from ..encoders import Readout
from ..losses import prediction_loss
from ..support.errors import RunError
from ..system import LoopSettings, Output, Shapes, System, SystemEntry

RETRIEVED = 6  # clips beside each clip: two of each kind of `rank_candidates`
KINDS = 6  # features of a clip: similar T, V, A, then dissimilar T, V, A


@dataclass(frozen=True)
class ConFEDESettings(LoopSettings):
    """Published values for CH-SIMS; what the other datasets change is in `PUBLISHED`."""

    lr: float = 1e-4
    warmup_epochs: float = 1.0
    patience: int | None = None  # the authors train all epochs

    # Audio and vision encoders, pretrained on y_A and y_V
    width: int = 768
    heads: int = 8
    vision_layers: int = 1
    audio_layers: int = 2
    encoder_dropout: float = 0.5
    pretrain_epochs: int = 300
    pretrain_batch_size: int = 64
    pretrain_warmup_epochs: float = 10.0

    # Decomposition and objective
    similar_dropout: float = 0.5
    dissimilar_dropout: float = 0.5
    contrast_weight: float = 0.1
    unimodal_weight: float = 0.01  # of the prediction from each of the six features alone; 0 leaves it out
    temperature: float = 0.5
    learn_retrieved: bool = True  # predict the retrieved clips too, not the batch's alone

    # Retrieval
    candidates: int = 10  # nearest clips of each kind from which two are drawn at random
    share: float = 0.5  # of the ranking that counts as near, and at its other end as far
    round_labels: bool = False  # compare labels rounded to integers
    refresh_epochs: int = 10  # epochs from one ranking of the training clips to the next
    encode_retrieved: bool = False  # True: encode retrieved audio and vision in each step, as the authors do, at seven
    # times the cost; False: take them from the memory of their last encoding, at none


MOSI_CHANGES = {
    "epochs": 25,
    "batch_size": 16,
    "vision_layers": 2,
    "pretrain_epochs": 100,
    "pretrain_batch_size": 128,
    "share": 1.0,
    "round_labels": True,
    "refresh_epochs": 2,
}
MOSEI_CHANGES = {
    **MOSI_CHANGES,
    "epochs": 6,
    "batch_size": 8,
    "vision_layers": 3,
    "audio_layers": 3,
    "pretrain_epochs": 300,
    "share": 0.1,
    "candidates": 50,
}
#: config.py, dataloader and TVA_fusion_train.py of each dataset's folder in github.com/XpastaX/ConFEDE.
#: MOSI's vision encoder warms up for 5 epochs there, its audio encoder for 10.
PUBLISHED: dict[str, ConFEDESettings] = {
    "sims": ConFEDESettings(),
    "mosi": ConFEDESettings(**MOSI_CHANGES),
    "mosei": ConFEDESettings(**MOSEI_CHANGES),
}


class SequenceEncoder(nn.Module):
    """Transformer over the valid steps and one learned step before them, then their mean.

    ``forward(values (B, L, D), mask (B, L))`` gives (B, width), zero for a clip without any valid step (decision 19).
    """

    def __init__(self, features: int, steps: int, layers: int, settings: ConFEDESettings):
        super().__init__()
        width, dropout = settings.width, settings.encoder_dropout
        self.inputs = nn.Linear(features, width)
        self.first = nn.Parameter(torch.ones(width))
        self.positions = nn.Parameter(torch.zeros(steps + 1, width))
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, settings.heads, width, dropout, activation="gelu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        present = mask.any(1, keepdim=True)  # (B, 1)
        first = self.first.expand(len(values), 1, -1)
        states = torch.cat([first, self.inputs(values)], 1)  # (B, 1 + L, width)
        states = self.dropout(states + self.positions[: states.shape[1]])
        mask = F.pad(mask, (1, 0), value=True)
        return masked_mean(self.norm(self.transformer(states, src_key_padding_mask=~mask)), mask) * present


class SequenceRegressor(System):
    """The pretraining of one sequence encoder: it learns the label of its own modality."""

    def __init__(self, encoder: SequenceEncoder, modality: str, settings: ConFEDESettings):
        super().__init__()
        self.encoder, self.modality, self.settings = encoder, modality, settings
        width = settings.width
        self.head = gelu_perceptron(width, width // 2, width // 4, width // 8)

    def target(self, batch: Batch) -> Tensor:
        return batch.unimodal_labels[MODALITIES.index(self.modality)]

    def forward(self, batch: Batch) -> Output:
        values, mask = (batch.audio, batch.audio_mask) if self.modality == "A" else (batch.vision, batch.vision_mask)
        present = mask.any(1)  # of a clip without the modality nothing is learned, and 0 is predicted
        output = Output(self.head(self.encoder(values, mask)).squeeze(-1).float() * present)
        if batch.labels is not None:
            output.losses["pred"] = prediction_loss(output.prediction, self.target(batch), present)
        return output


class ConFEDE(System):
    """Decomposition, retrieval and the joint objective.

    Batches carry stage one's text as ``features["macro_T"]`` (B, ``shapes.text_dim``). Before training, the
    systems of ``pretraining()`` are to be trained. Without a ``begin_fit`` there is nothing to retrieve from, and
    the losses are those of the batch's clips alone.
    """

    def __init__(self, settings: ConFEDESettings, shapes: Shapes):
        super().__init__()
        self.settings, width = settings, settings.width
        self.encoders = nn.ModuleDict(
            {
                "V": SequenceEncoder(shapes.vision_dim, shapes.vision_steps, settings.vision_layers, settings),
                "A": SequenceEncoder(shapes.audio_dim, shapes.audio_steps, settings.audio_layers, settings),
            }
        )
        widths = {"T": shapes.text_dim, "V": width, "A": width}
        self.half = width // 2  # h
        self.similar, self.dissimilar = (
            nn.ModuleDict({m: self._projection(widths[m], dropout) for m in MODALITIES})
            for dropout in (settings.similar_dropout, settings.dissimilar_dropout)
        )
        self.decoder = gelu_perceptron(self.decoder_width(), width, width // 2, width // 4, width // 8)
        if settings.unimodal_weight > 0:
            self.unimodal_decoder = gelu_perceptron(self.half, width // 4, width // 8)
        # Kept with the weights, so that a run that was stopped continues with the clips it would have retrieved.
        self.register_buffer("memory", torch.zeros(shapes.clips, 2 * width))  # last encodings of vision and audio
        self.register_buffer("candidates", torch.full((shapes.clips, 3, settings.candidates), -1))
        self.split: DeviceSplit | None = None

    def _projection(self, features: int, dropout: float) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, self.half), nn.Tanh(), nn.Dropout(dropout))

    def decoder_width(self) -> int:
        return KINDS * self.half

    def pretraining(self) -> dict[str, System]:
        """The regressors of vision and audio, to be trained for ``settings.pretrain_epochs``."""
        return {f"pretrain_{m}": SequenceRegressor(encoder, m, self.settings) for m, encoder in self.encoders.items()}

    def begin_fit(self, train: DeviceSplit) -> None:
        if len(train) != len(self.memory):
            raise RunError(f"built for {len(self.memory)} training clips, given {len(train)}")
        if "macro_T" not in train.features:
            raise RunError("the training split carries no 'macro_T' features of a frozen text encoder")
        self.split = train

    def begin_epoch(self, epoch: int) -> None:
        if (epoch - 1) % self.settings.refresh_epochs == 0:
            self._rank()

    @torch.no_grad()
    def _rank(self) -> None:
        """Encode the training clips once and keep, for each, the candidates of the three kinds."""
        self.eval()
        states = [torch.cat(self.embed(batch)[1:], -1) for batch in self.split.batches(self.settings.batch_size)]
        self.train()
        self.memory.copy_(torch.cat(states))
        embeddings = torch.cat([self.split.features["macro_T"].to(self.memory), self.memory], -1)
        labels = self.split.labels.round() if self.settings.round_labels else self.split.labels
        self.candidates.copy_(rank_candidates(embeddings, labels, self.settings.share, self.settings.candidates))

    def embed(self, batch: Batch) -> list[Tensor]:
        """One vector of each modality: text (B, H), vision (B, width), audio (B, width)."""
        if "macro_T" not in batch.features:
            raise RunError("the batch carries no 'macro_T' features of a frozen text encoder")
        return [
            batch.features["macro_T"],
            self.encoders["V"](batch.vision, batch.vision_mask),
            self.encoders["A"](batch.audio, batch.audio_mask),
        ]

    def decompose(self, embeddings: list[Tensor], present: Tensor) -> Tensor:
        """Three (…, H) → similar T, V, A and dissimilar T, V, A, (…, 6, h); zero where not ``present`` (3, …)."""
        return torch.stack(
            [
                projections[m](vector) * here[..., None]
                for projections in (self.similar, self.dissimilar)
                for m, vector, here in zip(MODALITIES, embeddings, present, strict=True)
            ],
            -2,
        )

    def predict(self, features: Tensor) -> Tensor:
        """(…, 6, h) → (…)."""
        return self.decoder(features.flatten(-2)).squeeze(-1).float()

    def forward(self, batch: Batch) -> Output:
        embeddings = self.embed(batch)
        present = batch.present  # (3, B)
        features = self.decompose(embeddings, present)  # (B, 6, h)
        if batch.labels is None:
            return Output(self.predict(features))
        features, labels = features[:, None], batch.labels[:, None]  # (B, clips, 6, h), (B, clips)
        unimodal = batch.unimodal_labels[:, :, None]  # (3, B, clips)
        present, valid = present[:, :, None], torch.ones_like(labels, dtype=torch.bool)
        if self.training and self.split is not None:
            self.memory[batch.index] = torch.cat(embeddings[1:], -1).detach().float()
            rows = draw_candidates(self.candidates[batch.index])  # (B, 6)
            valid = torch.cat([valid, rows >= 0], 1)
            rows = rows.clamp_min(0)
            recalled = self.split.present[:, rows]  # (3, B, 6)
            features = torch.cat([features, self.decompose(self._recall(rows), recalled)], 1)
            present = torch.cat([present, recalled], 2)
            labels = torch.cat([labels, self.split.labels[rows]], 1)
            unimodal = torch.cat([unimodal, self.split.unimodal_labels[:, rows]], 2)
        return self._objective(features, labels, unimodal, valid, present)

    def _recall(self, rows: Tensor) -> list[Tensor]:
        """Embeddings of training clips (B, 6), each (B, 6, H)."""
        if self.settings.encode_retrieved:
            embeddings = self.embed(self.split.batch(rows.flatten().cpu().numpy()))
            return [vector.unflatten(0, rows.shape) for vector in embeddings]
        return [self.split.features["macro_T"][rows].float(), *self.memory[rows].chunk(2, -1)]

    def _objective(self, features: Tensor, labels: Tensor, unimodal: Tensor, valid: Tensor, present: Tensor) -> Output:
        """Losses of clips (B, clips, 6, h), the batch's first, with their labels and which of them are valid.

        ``present`` (3, B, clips) is False where a clip lacks T, V, A: no term comes from its features (decision 19).
        """
        settings = self.settings
        there = valid[:, :, None] & present.permute(1, 2, 0).repeat(1, 1, 2)  # (B, clips, 6)
        clips = features.shape[1] if settings.learn_retrieved else 1
        predicted = self.predict(features[:, :clips])  # (B, clips)
        output = Output(predicted[:, 0])
        output.losses["pred"] = masked_mean_square(predicted - labels[:, :clips], valid[:, :clips])
        if features.shape[1] > 1:
            output.losses["con"] = settings.contrast_weight * contrastive_loss(features, there, settings.temperature)
        if settings.unimodal_weight > 0:
            predicted = self.unimodal_decoder(features[:, :clips]).squeeze(-1).float()  # (B, clips, 6)
            # Similar features learn y, dissimilar ones the label of their modality.
            targets = torch.stack([labels] * 3 + list(unimodal), -1)[:, :clips]
            output.losses["uni"] = settings.unimodal_weight * masked_mean_square(predicted - targets, there[:, :clips])
        return output


def masked_mean_square(errors: Tensor, valid: Tensor) -> Tensor:
    """Mean square of errors over those that are valid, both of one shape."""
    return (errors.square() * valid).sum() / valid.sum().clamp_min(1)


def gelu_perceptron(in_features: int, *hidden: int) -> Readout:
    """Linear layers with GELU between them, ending in one value: (…, in) → (…, 1)."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(in_features, width), nn.GELU()]
        in_features = width
    return Readout(*layers, nn.Linear(in_features, 1))


def rank_candidates(embeddings: Tensor, labels: Tensor, share: float, count: int, rows: int = 512) -> Tensor:
    """For each clip: the nearest with its label, the farthest and the nearest with another label, ``count`` of each.

    Nearest are the clips of highest cosine, taken from the ``share`` of all clips that lies highest; farthest those of
    lowest cosine, taken from as large a share at the other end.

    Args:
        embeddings: (N, D).
        labels: (N,).
        share: Of the clips, in (0, 1].
        count: Candidates of each kind.
        rows: Clips ranked at once.

    Returns:
        (N, 3, count) rows of clips, best first, -1 where there are fewer.
    """
    unit, clips = F.normalize(embeddings, dim=-1), torch.arange(len(labels), device=labels.device)
    nearest = max(1, int(len(clips) * share))
    ranked = []
    for anchors in clips.split(rows):
        similarity = unit[anchors] @ unit.mT  # (rows, N)
        other = anchors[:, None] != clips
        same_label = (labels[anchors, None] - labels).abs() < 1e-6
        near = similarity >= similarity.topk(nearest).values[:, -1:]
        far = -similarity >= (-similarity).topk(nearest).values[:, -1:]
        ranked.append(
            torch.stack(
                [
                    _highest(similarity, same_label & near & other, count),
                    _highest(-similarity, ~same_label & far & other, count),
                    _highest(similarity, ~same_label & near & other, count),
                ],
                1,
            )
        )
    return torch.cat(ranked)


def _highest(score: Tensor, allowed: Tensor, count: int) -> Tensor:
    """Columns of the ``count`` highest allowed scores of each row, -1 where there are fewer."""
    values, columns = score.masked_fill(~allowed, -torch.inf).topk(min(count, score.shape[1]))
    return F.pad(columns.masked_fill(values == -torch.inf, -1), (0, count - columns.shape[1]), value=-1)


def draw_candidates(candidates: Tensor) -> Tensor:
    """Two candidates of each kind at random, without replacement: (B, 3, K) → (B, 6); -1 where there are fewer."""
    keys = torch.rand(candidates.shape, device=candidates.device).masked_fill(candidates < 0, -1.0)
    return candidates.gather(-1, keys.topk(2).indices).flatten(1)


def contrast_pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Positive (20) and negative (33) pairs among the features of a clip and of the six retrieved for it.

    A pair is (anchor, other), a feature the number ``6 * clip + kind``. Within each clip the similar text is the
    anchor: the two other similar features are positive, the three dissimilar ones negative. Across clips the anchors
    are the similar features of the clip itself: that of the same modality is positive in the two clips with its label,
    negative in the four with another.
    """
    positive = [(KINDS * 0 + m, KINDS * clip + m) for m in range(3) for clip in (1, 2)]
    positive += [(KINDS * clip, KINDS * clip + m) for clip in range(1 + RETRIEVED) for m in (1, 2)]
    negative = [(KINDS * 0 + m, KINDS * clip + m) for m in range(3) for clip in (3, 4, 5, 6)]
    negative += [(KINDS * clip, KINDS * clip + kind) for clip in range(1 + RETRIEVED) for kind in (3, 4, 5)]
    return positive, negative


@functools.cache
def _pairs_on(device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """`contrast_pairs` as tensors, sent to a device once and not in each step."""
    return tuple(torch.tensor(pairs, device=device).unbind(1) for pairs in contrast_pairs())


def contrastive_loss(features: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Mean over clips and their positive pairs of −log(e^p / (e^p + Σ e^n)), n being all negatives of the anchor.

    Args:
        features: (B, 7, 6, h): each clip, then the six retrieved for it.
        valid: (B, 7, 6), False where no clip could be retrieved or it lacks the modality; such pairs are left out.
        temperature: By which cosines are divided.

    Returns:
        A scalar, in float32 at least.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    unit = F.normalize(features, dim=-1).flatten(1, 2)  # (B, 42, h)
    with torch.autocast(unit.device.type, enabled=False):  # cosines stay in float32
        similarity = unit @ unit.mT / temperature  # (B, 42, 42)
    feature_valid = valid.flatten(1)  # (B, 42)
    positive, negative = _pairs_on(features.device)
    (anchor, other), (negative_anchor, negative_other) = positive, negative
    negative_valid = feature_valid[:, negative_anchor] & feature_valid[:, negative_other]  # (B, 33)
    competes = (anchor[:, None] == negative_anchor) & negative_valid[:, None]  # (B, 20, 33)
    # A finite stand-in for -inf keeps the gradient of an anchor without negatives finite.
    negatives = similarity[:, None, negative_anchor, negative_other].masked_fill(~competes, torch.finfo(unit.dtype).min)
    terms = F.softplus(negatives.logsumexp(-1) - similarity[:, anchor, other])  # (B, 20)
    positive_valid = feature_valid[:, anchor] & feature_valid[:, other]
    return ((terms * positive_valid).sum(1) / positive_valid.sum(1).clamp_min(1)).mean()


ENTRY = SystemEntry(
    title="ConFEDE",
    build=ConFEDE,
    published=PUBLISHED,
    text="pretrained",
    reference="Yang et al. 2023, ConFEDE: Contrastive Feature Decomposition for Multimodal Sentiment Analysis, ACL",
)
