"""The contrastive loss against a loop over hand-listed pairs, and in every degenerate batch."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mgcl_core import reference as naive
from mgcl_core.losses import COMPONENTS, collaborative_contrastive_loss, intensity_pairs, prediction_loss, unimodal_loss
from mgcl_core.support.errors import ConfigError

COMBINATIONS = [c for size in (1, 2, 3) for c in itertools.combinations(COMPONENTS, size)]
DISTANT = torch.linspace(-1, 1, 5)  # 0.5 apart: no pair is positive


def features(batch: int, *, seed: int = 0, width: int = 5, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, batch, width, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))


def label_sets(batch: int) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(batch)
    return {
        "grid": torch.from_numpy(random.integers(-5, 6, batch) / 5),
        "continuous": torch.from_numpy(random.uniform(-1, 1, batch)),
        "equal": torch.full((batch,), 0.2, dtype=torch.float64),
        "distant": 0.5 * torch.arange(batch, dtype=torch.float64) - 1,  # beyond 1 where batch > 5
    }


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_equals_the_naive_loop(components, batch):
    macro, micro = features(batch, seed=batch)
    for labels, weighted, reduction in itertools.product(label_sets(batch).values(), (True, False), ("mean", "sum")):
        options = {"components": components, "weighted": weighted, "reduction": reduction}
        found = collaborative_contrastive_loss(macro, micro, labels, **options)
        expected = naive.contrastive_loss(macro.tolist(), micro.tolist(), labels.tolist(), **options)
        assert found.dtype == torch.float64
        assert found.shape == ()
        assert found.item() == pytest.approx(expected, abs=1e-10, rel=0)


@pytest.mark.parametrize(("delta", "temperature"), [(0.0, 0.5), (0.1, 0.07), (1.0, 2.0), (2.0, 0.5)])
def test_equals_the_naive_loop_at_other_thresholds_and_temperatures(delta, temperature):
    macro, micro = features(8)
    for labels in label_sets(8).values():
        found = collaborative_contrastive_loss(macro, micro, labels, delta=delta, temperature=temperature)
        expected = naive.contrastive_loss(
            macro.tolist(), micro.tolist(), labels.tolist(), delta=delta, temperature=temperature
        )
        assert found.item() == pytest.approx(expected, abs=1e-10, rel=0)


def test_a_batch_worked_by_hand():
    # Two clips, C1 and weights off: sample 0 has one positive (itself excluded) only with equal labels.
    macro = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]] * 3, dtype=torch.float64)  # clips 0 and 2 agree
    labels = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    found = collaborative_contrastive_loss(
        macro, macro, labels, components=["C1"], weighted=False, temperature=1.0, reduction="sum"
    )
    # Clip 0: positive 1 (cosine 0), negative 2 (cosine 1). Clip 1: positive 0, negative 2, both cosine 0.
    # Clip 2 has no positive. Three modalities multiply numerator and denominator by the same.
    expected = np.log(1 + np.e) + np.log(2)
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("weighted", [True, False])
def test_gradcheck(components, weighted):
    labels = torch.tensor([0.0, 0.4, -0.4, 1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda macro, micro: collaborative_contrastive_loss(
            macro, micro, labels, components=components, weighted=weighted
        ),
        features(4, width=3),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("case", "labels", "components"),
    [("one sample", torch.tensor([0.4]), components) for components in COMBINATIONS]
    + [("no negatives", torch.full((6,), -0.6), components) for components in COMBINATIONS]
    + [("no positives", DISTANT, ("C1",))],
)
def test_degenerate_batches_are_zero_with_a_zero_gradient(case, labels, components, dtype):
    macro, micro = features(len(labels), dtype=dtype)
    loss = collaborative_contrastive_loss(macro, micro, labels, components=components)
    assert loss.item() == 0
    gradients = torch.autograd.grad(loss, (macro, micro), allow_unused=True)
    assert gradients[0] is not None or gradients[1] is not None
    assert all((gradient == 0).all() for gradient in gradients if gradient is not None)  # and so not NaN


def test_a_sample_without_positives_contributes_nothing_among_others_that_have_them():
    macro, micro = features(3)
    labels = torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)  # clip 2 stands alone
    loss = collaborative_contrastive_loss(macro, micro, labels, components=["C1"], reduction="sum")
    assert loss.item() == pytest.approx(
        naive.contrastive_loss(macro.tolist(), micro.tolist(), labels.tolist(), components=["C1"], reduction="sum"),
        abs=1e-10,
    )
    loss.backward()
    assert macro.grad.isfinite().all() and macro.grad[:, 2].abs().sum() > 0  # still a negative of the two others


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("components", COMBINATIONS, ids="+".join)
def test_zero_features_have_cosine_zero_and_a_zero_gradient(components, dtype):
    macro, micro = features(6, dtype=dtype)
    with torch.no_grad():
        macro[:, 1] = 0
        micro[1, 1] = 0
        micro[0, 2] = 0
    labels = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.0, -1.0])
    loss = collaborative_contrastive_loss(macro, micro, labels, components=components)
    expected = naive.contrastive_loss(macro.tolist(), micro.tolist(), labels.double().tolist(), components=components)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert macro.grad.isfinite().all()
    assert (macro.grad[:, 1] == 0).all()
    if "C3" in components:
        assert micro.grad.isfinite().all()
        assert (micro.grad[1, 1] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
def test_cosine_does_not_depend_on_the_scale_and_its_gradient_stays_finite(scale):
    macro, micro = features(6, dtype=torch.float32)
    labels = label_sets(6)["grid"]
    expected = collaborative_contrastive_loss(macro, micro, labels)
    scaled = [(part * scale).detach().requires_grad_() for part in (macro, micro)]
    loss = collaborative_contrastive_loss(*scaled, labels)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert all(part.grad.isfinite().all() for part in scaled)


def test_permuting_the_clips_permutes_the_gradient():
    macro, micro = features(8)
    labels = label_sets(8)["grid"]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    loss = collaborative_contrastive_loss(macro, micro, labels)
    gradients = torch.autograd.grad(loss, (macro, micro))
    permuted = [part[:, order].detach().requires_grad_() for part in (macro, micro)]
    again = collaborative_contrastive_loss(*permuted, labels[order])
    assert again.item() == pytest.approx(loss.item(), abs=1e-12)
    for before, after in zip(gradients, torch.autograd.grad(again, permuted), strict=True):
        assert torch.allclose(after, before[:, order], atol=1e-12)


def test_micro_features_matter_to_c3_alone():
    macro, micro = features(6)
    labels = label_sets(6)["grid"]
    without = collaborative_contrastive_loss(macro, micro, labels, components=("C1", "C2"))
    assert not torch.autograd.grad(without, (macro, micro))[1].any()
    with_c3 = collaborative_contrastive_loss(macro, micro, labels, components=("C3",))
    assert torch.autograd.grad(with_c3, micro)[0].abs().sum() > 0


def test_order_and_repetition_of_components_do_not_matter():
    macro, micro = features(6)
    labels = label_sets(6)["grid"]
    expected = collaborative_contrastive_loss(macro, micro, labels).item()
    for components in (["C3", "C1", "C2"], {"C1", "C2", "C3"}, ("C1", "C1", "C2", "C3")):
        found = collaborative_contrastive_loss(macro, micro, labels, components=components).item()
        assert found == pytest.approx(expected, abs=1e-12)


def test_half_precision_features_are_computed_in_float32():
    macro, micro = features(8, dtype=torch.float32)
    labels = label_sets(8)["grid"].float()
    half = [part.detach().bfloat16().requires_grad_() for part in (macro, micro)]
    loss = collaborative_contrastive_loss(*half, labels)
    exact = collaborative_contrastive_loss(*(part.float() for part in half), labels)
    assert loss.dtype == torch.float32
    assert loss.item() == exact.item()
    loss.backward()
    assert half[0].grad.dtype == torch.bfloat16 and half[0].grad.isfinite().all()


def test_autocast_changes_nothing():
    macro, micro = features(8, dtype=torch.float32)
    labels = label_sets(8)["grid"].float()
    expected = collaborative_contrastive_loss(macro, micro, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = collaborative_contrastive_loss(macro, micro, labels)
    assert found.dtype == torch.float32
    assert found.item() == expected.item()


class _Count(TorchDispatchMode):
    """Counts the tensor operations that run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_the_number_of_operations_does_not_grow_with_the_batch():
    counts = []
    for batch in (2, 50):
        macro, micro = features(batch)
        with _Count() as counter:
            collaborative_contrastive_loss(macro, micro, label_sets(batch)["grid"])
        counts.append(counter.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_on_the_grid_are_those_of_integers(dtype):
    steps = torch.arange(-5, 6)
    exact = (steps[:, None] - steps[None, :]).abs() <= 2  # 0.4 is two steps of 0.2
    positive, _ = intensity_pairs((steps.double() / 5).to(dtype))
    assert torch.equal(positive, exact)


def test_pairs_of_ch_sims_are_those_of_integers(shared_data):
    labels = pd.read_csv(shared_data / "CH-SIMS" / "labels.csv")["label"].to_numpy()
    steps = torch.from_numpy(np.round(labels * 5).astype(np.int64))
    assert len(steps) == 2281
    exact = (steps[:, None] - steps[None, :]).abs() <= 2
    single = torch.from_numpy(labels.astype(np.float32))
    assert torch.equal(intensity_pairs(single)[0], exact)
    assert torch.equal(intensity_pairs(single.double())[0], exact)
    # What the tolerance is for: a plain comparison decides many of these pairs by rounding.
    assert ((single[:, None] - single[None, :]).abs() <= 0.4).ne(exact).sum() > 10_000


@pytest.mark.parametrize("name", ["CMU-MOSI", "CMU-MOSEI"])
def test_pairs_of_the_other_corpora_do_not_depend_on_the_precision(shared_data, name):
    labels = torch.from_numpy(np.unique(pd.read_csv(shared_data / name / "labels.csv")["label"].to_numpy()))
    assert torch.equal(intensity_pairs(labels.float() / 3)[0], intensity_pairs(labels / 3)[0])


def test_weights_of_equation_2():
    labels = torch.tensor([0.0, 0.2, 0.4, 0.6, -1.0], dtype=torch.float64)
    positive, weight = intensity_pairs(labels, 0.4)
    for i, j in itertools.product(range(5), repeat=2):
        assert weight[i, j].item() == pytest.approx(naive.weight(labels.tolist(), i, j, 0.4), abs=1e-12)
    assert positive.diagonal().all()
    assert weight[0, 2].item() == pytest.approx(0, abs=1e-12)  # E = δ: a positive pair of weight 0
    assert weight[0, 0].item() == pytest.approx(1.5 * np.tanh(0.4))  # decision 8


def test_unimodal_and_prediction_losses():
    generator = torch.Generator().manual_seed(0)
    predictions, labels, unimodal = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 5), (5,), (3, 5))
    )
    assert unimodal_loss(predictions, labels, unimodal).item() == pytest.approx(
        naive.unimodal_loss(predictions.tolist(), labels.tolist(), unimodal.tolist()), abs=1e-12
    )
    assert prediction_loss(predictions[0], labels).item() == pytest.approx(
        naive.squared_error(predictions[0].tolist(), labels.tolist()), abs=1e-12
    )


def test_errors():
    macro, micro = features(3)
    labels = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(ConfigError, match="unknown component 'C4': did you mean 'C[123]'"):
        collaborative_contrastive_loss(macro, micro, labels, components=("C1", "C4"))
    with pytest.raises(ConfigError, match="components is empty"):
        collaborative_contrastive_loss(macro, micro, labels, components=())
    with pytest.raises(ConfigError, match="unknown reduction 'meen': did you mean 'mean'"):
        collaborative_contrastive_loss(macro, micro, labels, reduction="meen")
    for wrong in (
        (macro[:2], micro[:2], labels),
        (macro, micro[:, :2], labels),
        (macro, micro, labels[:2]),
        (macro[0], micro[0], labels),
        (macro, micro[..., :2], labels),
    ):
        with pytest.raises(ValueError, match=r"expected macro and micro \(3, B, d\)"):
            collaborative_contrastive_loss(*wrong)
