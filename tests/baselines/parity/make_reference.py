"""Write the reference files of the parity tests: inputs, weights and outputs of the models in ``mmsa==2.2.1``.

It runs in an environment of its own, since mmsa's BERT_MAG needs transformers 4 and its requirements pull far more
than its models import:

    python3.11 -m venv mmsa-env && . mmsa-env/bin/activate
    pip install torch==2.13.0
    pip install "transformers==4.57.*" numpy pandas scikit-learn tqdm easydict nvidia-ml-py safetensors
    pip install mmsa==2.2.1 --no-deps
    python tests/baselines/parity/make_reference.py

Every file ``reference/<system>.safetensors`` holds, for tiny random models in eval mode and synthetic random inputs:

- ``weight.<name>``: the state of mmsa's model
- ``input.<case>.<name>``: text (B, L, D) or tokens (B, 3, L), audio, vision, lengths, labels
- ``output.<case>.<name>``: what the model returned; ``loss.<case>.<name>``: auxiliary losses; ``grad.<case>.<name>``:
  gradients of their weighted sum
- ``input.steps.<name>``, ``steps.prediction`` (epochs, clips) and ``trained.<name>``, for the systems of ``TRAINED``:
  clips in the order of their batches, what the model predicted of each before the optimiser's step, and its state after
  20 steps of mmsa's own ``do_train``, without dropout
- one piece of metadata, ``json``: mmsa's ``args``, and ``bert`` (config and vocabulary), null where there is none

Cases: ``full`` has no padding, ``padded`` has clips of different lengths, ``aligned`` has the same steps everywhere.

``published.json`` holds mmsa's settings of each system by dataset, and how many weights its model then has (those that
read frozen text, at a width of 768).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

DIMS = {"text": 12, "audio": 5, "vision": 6}
STEPS = {"text": 7, "audio": 11, "vision": 9}
LENGTHS = {"text": (7, 4, 5, 3), "audio": (11, 6, 9, 8), "vision": (9, 9, 4, 5)}
CLIPS, VOCABULARY = 4, 30
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": DIMS["text"],
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{n}" for n in range(VOCABULARY - 5)]
COMMON = {
    "train_mode": "regression",
    "num_classes": 3,
    "device": "cpu",
    "transformers": "bert",
    "dataset_name": "mosi",
    "pretrained": "bert-base-uncased",
    "language": "en",
    "need_data_aligned": False,
    "feature_dims": list(DIMS.values()),
    "seq_lens": list(STEPS.values()),
}
SYSTEMS: dict[str, dict] = {
    "lf_dnn": {"hidden_dims": [8, 4, 6], "text_out": 5, "post_fusion_dim": 7, "dropouts": [0.1] * 4},
    "mfn": {
        "hidden_dims": [8, 4, 6],
        "memsize": 9,
        "windowsize": 2,
        "need_model_aligned": True,
        "NN1Config": {"drop": 0.2, "shapes": 5},
        "NN2Config": {"drop": 0.1, "shapes": 6},
        "gamma1Config": {"drop": 0.2, "shapes": 7},
        "gamma2Config": {"drop": 0.1, "shapes": 8},
        "outConfig": {"drop": 0.1, "shapes": 10},
    },
    "lmf": {"hidden_dims": [8, 4, 6], "dropouts": [0.1] * 4, "rank": 3},
    "tfn": {"hidden_dims": [8, 4, 6], "text_out": 5, "post_fusion_dim": 7, "dropouts": [0.1] * 4},
    "mult": {
        "use_bert": False,
        "attn_mask": True,
        "attn_dropout": 0.2,
        "attn_dropout_a": 0.1,
        "attn_dropout_v": 0.1,
        "relu_dropout": 0.1,
        "embed_dropout": 0.1,
        "res_dropout": 0.1,
        "output_dropout": 0.1,
        "text_dropout": 0.1,
        "dst_feature_dim_nheads": [8, 2],
        "nlevels": 2,
        "conv1d_kernel_size_l": 3,
        "conv1d_kernel_size_a": 1,
        "conv1d_kernel_size_v": 2,
    },
    "misa": {
        "use_bert": True,
        "use_finetune": True,
        "rnncell": "lstm",
        "use_cmd_sim": True,
        "hidden_size": 8,
        "dropout": 0.1,
        "reverse_grad_weight": 0.8,
        "diff_weight": 0.3,
        "sim_weight": 0.8,
        "sp_weight": 1.0,
        "recon_weight": 0.7,
    },
    "bert_mag": {"use_bert": True, "need_model_aligned": True, "beta_shift": 1, "dropout_prob": 0.1},
    "self_mm": {
        "use_finetune": True,
        "a_lstm_hidden_size": 6,
        "v_lstm_hidden_size": 7,
        "a_lstm_layers": 1,
        "v_lstm_layers": 1,
        "text_out": DIMS["text"],
        "audio_out": 5,
        "video_out": 4,
        "a_lstm_dropout": 0.0,
        "v_lstm_dropout": 0.0,
        "t_bert_dropout": 0.1,
        "post_fusion_dim": 8,
        "post_text_dim": 6,
        "post_audio_dim": 5,
        "post_video_dim": 4,
        "post_fusion_dropout": 0.1,
        "post_text_dropout": 0.1,
        "post_audio_dropout": 0.1,
        "post_video_dropout": 0.1,
        "H": 3.0,
        "excludeZero": True,
    },
}
# mmsa's loader averages audio and vision over all steps, padding too, for these; not here in the case "aligned", which
# shows MFN as its paper has it.
AVERAGED = ("lf_dnn", "mfn", "lmf", "tfn")
ADAPTED = ("mfn", "bert_mag")  # mmsa folds audio and vision onto the steps of text
#: Systems that are trained for 20 steps by mmsa's own trainer, with its settings: large steps, and limits that bite.
TRAINED: dict[str, dict] = {
    "lf_dnn": {"learning_rate": 5e-3, "weight_decay": 1e-2},
    "mfn": {"learning_rate": 5e-3, "weight_decay": 1e-2},
    "lmf": {"learning_rate": 5e-3, "factor_lr": 2e-3, "weight_decay": 1e-2},
    "tfn": {"learning_rate": 5e-3},
    "misa": {"learning_rate": 1e-4, "grad_clip": 0.02, "update_epochs": 2},
}
TRAINED_CLIPS, STEPS_TRAINED = 20, 20  # five batches of four clips; for MISA two steps an epoch and a batch left over


def inputs(case: str, *, tokens: bool, clips: int = CLIPS) -> dict[str, Tensor]:
    """Synthetic inputs of ``case``; audio and vision are zero beyond their lengths, text embeddings are not."""
    steps = dict.fromkeys(STEPS, STEPS["text"]) if case == "aligned" else STEPS
    lengths = {
        name: torch.tensor([LENGTHS[name][clip % CLIPS] for clip in range(clips)]).clamp(max=steps[name])
        for name in steps
    }
    if case == "aligned":
        lengths = dict.fromkeys(steps, torch.full((clips,), STEPS["text"]))
    if case == "full":
        lengths = {name: torch.full((clips,), count) for name, count in steps.items()}
    values: dict[str, Tensor] = {f"{name}_lengths": length for name, length in lengths.items()}
    for name in ("audio", "vision"):
        mask = torch.arange(steps[name]) < lengths[name][:, None]
        values[name] = torch.randn(clips, steps[name], DIMS[name]) * mask[:, :, None]
    mask = (torch.arange(steps["text"]) < lengths["text"][:, None]).long()
    ids = torch.randint(5, VOCABULARY, (clips, steps["text"]))
    ids[:, 0] = WORDS.index("[CLS]")
    ids[torch.arange(clips), lengths["text"] - 1] = WORDS.index("[SEP]")
    values["tokens"] = torch.stack([ids * mask, mask, torch.zeros_like(mask)], 1)
    if not tokens:
        values["text"] = torch.randn(clips, steps["text"], DIMS["text"])
    # Both signs, and no zero: Self-MM's centres are means over the positive and over the negative clips.
    values["labels"] = torch.linspace(-2.6, 2.8, clips)
    return values


def arguments(system: str, bert: Path):
    from easydict import EasyDict

    return EasyDict({**COMMON, "model_name": system, "pretrained": str(bert), **SYSTEMS[system]})


def build(system: str, args) -> nn.Module:
    """mmsa's model in eval mode with every weight away from its initial zeros and ones."""
    from MMSA.models.AMIO import AMIO

    model = AMIO(args)
    if system == "misa":  # mmsa hard-codes 768, the width of BERT-base
        model.Model.project_t.project_t = nn.Linear(DIMS["text"], args.hidden_size)
    spread = 0.6 if system in AVERAGED else 0.2  # enough for the predictions of different clips to differ
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(spread * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


def call(system: str, model: nn.Module, values: dict[str, Tensor], *, average: bool = False) -> dict[str, Tensor]:
    """mmsa's forward with what its loader would hand it."""
    audio, vision = values["audio"], values["vision"]
    if average:
        audio, vision = audio.mean(1, keepdim=True), vision.mean(1, keepdim=True)
    text = values["text"] if "text" in values else values["tokens"].float()
    if system == "self_mm":
        return model(text, (audio, values["audio_lengths"]), (vision, values["vision_lengths"]))
    return model(text, audio, vision)


def misa_losses(model: nn.Module, args, outputs: dict[str, Tensor], labels: Tensor) -> tuple[dict, dict]:
    """MISA's terms by mmsa's own trainer, and gradients of their weighted sum."""
    from MMSA.trains.singleTask.MISA import MISA

    trainer = MISA(args)
    trainer.model = model
    losses = {
        "task": nn.functional.mse_loss(outputs["M"], labels[:, None]),
        "diff": trainer.get_diff_loss(),
        "sim": trainer.get_cmd_loss(),
        "recon": trainer.get_recon_loss(),
    }
    total = (
        losses["task"]
        + args.diff_weight * losses["diff"]
        + args.sim_weight * losses["sim"]
        + args.recon_weight * losses["recon"]
    )
    model.zero_grad()
    total.backward()
    grads = {
        name: parameter.grad
        for name, parameter in model.Model.named_parameters()
        if parameter.grad is not None and name.startswith(("private_", "shared.", "project_", "recon_"))
    }
    return {**losses, "total": total}, grads


def self_mm_losses(model: nn.Module, args) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Self-MM's labels, centres and losses over three epochs of three batches, the weights held still.

    Returns:
        Inputs of eight clips, and after each step ``s`` (order M, T, A, V): ``labels.s`` (4, 8) and ``losses.s`` (4,),
        with ``batches`` (9, 4), rows of a step padded with -1, and the centres at the end.
    """
    from MMSA.trains.multiTask.SELF_MM import SELF_MM

    clips, modes = 8, {"M": "fusion", "T": "text", "A": "audio", "V": "vision"}
    values = inputs("padded", tokens=True, clips=clips)
    args.train_samples = clips
    trainer = SELF_MM(args)
    trainer.init_labels(torch.arange(clips), values["labels"])
    steps, record = [], {}
    for epoch in (1, 2, 3):
        order = torch.randperm(clips)
        for start in (0, 3, 6):
            rows = order[start : start + 3]
            outputs = call("self_mm", model, {name: value[rows] for name, value in values.items()})
            losses = [
                trainer.weighted_loss(outputs[m], trainer.label_map[mode][rows], indexes=rows, mode=mode)
                for m, mode in modes.items()
            ]
            features = [outputs[f"Feature_{m}"].detach() for m in "ftav"]
            if epoch > 1:
                trainer.update_labels(*features, epoch, rows, outputs)
            trainer.update_features(*features, rows)
            trainer.update_centers()
            step = len(steps)
            record[f"labels.{step}"] = torch.stack([trainer.label_map[mode] for mode in modes.values()]).detach()
            record[f"losses.{step}"] = torch.stack(losses).detach()
            steps.append(nn.functional.pad(rows, (0, 4 - len(rows)), value=-1))
    record["batches"] = torch.stack(steps)
    for mode in modes.values():
        for sign in ("pos", "neg"):
            record[f"center.{mode}.{sign}"] = trainer.center_map[mode][sign]
    return values, record


def train(system: str, model: nn.Module, args) -> tuple[dict[str, Tensor], Tensor]:
    """Train ``model`` for `STEPS_TRAINED` steps by mmsa's ``do_train``, without dropout.

    Returns:
        The inputs of all clips, and the prediction of each in every epoch (epochs, clips).
    """
    from MMSA.trains.ATIO import ATIO

    accumulated = TRAINED[system].get("update_epochs", 1)
    epochs = STEPS_TRAINED // (TRAINED_CLIPS // CLIPS // accumulated)
    args.update(KeyEval="Loss", cur_seed=1, early_stop=epochs, batch_size=CLIPS, **TRAINED[system])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    values = inputs("padded", tokens=system == "misa", clips=TRAINED_CLIPS)
    values["labels"] = values["labels"][torch.randperm(TRAINED_CLIPS)]
    text = values["text"] if "text" in values else values["tokens"].float()
    audio, vision = values["audio"], values["vision"]
    if system in AVERAGED:
        audio, vision = audio.mean(1, keepdim=True), vision.mean(1, keepdim=True)
    batches = [
        {
            "text": text[rows],
            "audio": audio[rows],
            "vision": vision[rows],
            "labels": {"M": values["labels"][rows, None]},
        }
        for rows in torch.arange(TRAINED_CLIPS).split(CLIPS)
    ]
    predictions: list[Tensor] = []
    model.register_forward_hook(lambda _model, _inputs, output: predictions.append(output["M"].detach().view(-1)))
    trainer = ATIO().getTrain(args)
    trainer.do_test = lambda *_args, **_options: {"Loss": math.inf}  # never better, so no weights are saved
    trainer.do_train(model, {"train": batches, "valid": None})
    return values, torch.cat(predictions).view(epochs, TRAINED_CLIPS)


def save_bert(folder: Path) -> None:
    """A random tiny BERT with its vocabulary."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(BertConfig(**BERT)).save_pretrained(folder)


def make(system: str, folder: Path, bert: Path) -> Path:
    """Write the reference file of ``system`` into ``folder``."""
    torch.manual_seed(1111)
    args = arguments(system, bert)
    tensors: dict[str, Tensor] = {}
    tokens = system in ("misa", "bert_mag", "self_mm")
    metadata = {
        "mmsa": "2.2.1",
        "synthetic": True,
        "args": {**COMMON, **SYSTEMS[system]},
        "bert": {"config": {"model_type": "bert", **BERT}, "vocabulary": WORDS} if tokens else None,
    }
    model = build(system, args)
    for case in ("full", "padded", "aligned") if system in ADAPTED else ("full", "padded"):
        values = inputs(case, tokens=tokens)
        outputs = call(system, model, values, average=system in AVERAGED and case != "aligned")
        record = {"input": values, "output": {k: v.detach() for k, v in outputs.items() if isinstance(v, Tensor)}}
        if system == "misa":
            record["loss"], record["grad"] = misa_losses(model, args, outputs, values["labels"])
        for kind, named in record.items():
            tensors.update({f"{kind}.{case}.{name}": value.detach().clone() for name, value in named.items()})
    if system == "self_mm":
        values, record = self_mm_losses(model, args)
        tensors.update({f"input.training.{name}": value for name, value in values.items()})
        tensors.update({f"loss.training.{name}": value for name, value in record.items()})
    tensors.update({f"weight.{name}": value.detach().clone() for name, value in model.Model.state_dict().items()})
    if system in TRAINED:
        values, tensors["steps.prediction"] = train(system, model, args)
        tensors.update({f"input.steps.{name}": value for name, value in values.items()})
        tensors.update({f"trained.{name}": value.detach().clone() for name, value in model.Model.state_dict().items()})
        metadata["trained"] = {**TRAINED[system], "batch_size": CLIPS}
    path = folder / f"{system}.safetensors"
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, path, metadata={"json": json.dumps(metadata)}
    )
    return path


def write_published(folder: Path) -> None:
    """mmsa's own settings, against which the presets of `mgcl_core.baselines` are compared."""
    from MMSA import config
    from MMSA.models.AMIO import AMIO

    result: dict[str, dict] = {}
    for system in SYSTEMS:
        for dataset in ("sims", "mosi", "mosei"):
            args = config.get_config_regression(system, dataset)
            args.update(train_mode="regression", device="cpu")
            names = json.loads((Path(config.__file__).parent / "config" / "config_regression.json").read_text())[system]
            settings = {**names["commonParams"], **names["datasetParams"][dataset]}
            if not args.get("use_bert") and system != "self_mm":
                with torch.device("meta"):
                    settings["weights"] = sum(value.numel() for value in AMIO(args).parameters() if value.requires_grad)
            result.setdefault(system, {})[dataset] = settings
    (folder / "published.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=list(SYSTEMS), help="which to write; all when none is named")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent / "reference")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # BERT_MAG asks for "bert-base-uncased" by name: a folder of that name is found here
        bert = Path("bert-base-uncased")
        torch.manual_seed(1111)
        save_bert(bert)
        write_published(folder)
        for system in options.systems:
            path = make(system, folder, bert)
            sys.stdout.write(f"{path.name}: {path.stat().st_size / 1024:.0f} KB\n")


if __name__ == "__main__":
    main()
