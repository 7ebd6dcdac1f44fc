"""Runs in fairseq's environment: makes models, saves them in its layouts, and runs them.

`python fairseq_side.py make FOLDER` writes checkpoints of random weights and, for each, what it
computes; `python fairseq_side.py run CHECKPOINT INPUTS OUTPUTS` loads a checkpoint the way users of
fairseq do and runs it.  Needs nothing of this repository.
"""

import argparse
import sys
from pathlib import Path

import fairseq.checkpoint_utils
import numpy as np
import torch
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models.hubert.hubert import HubertConfig
from fairseq.models.hubert.hubert_asr import HubertCtc, HubertCtcConfig
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2CtcConfig
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf

SYMBOLS = ["|", "E", "T", "A", "O", "N"]
LANGUAGES = {"deu": [*SYMBOLS, "\u00e4"], "eng": SYMBOLS}
NEGATIVES = 7

SIZES = {
    # Base's and Large's layouts at their widths, few layers; other widths as XLS-R has them.
    "base": {"encoder_layers": 3, "final_dim": 256, "num_negatives": NEGATIVES},
    "large": {
        "encoder_layers": 2,
        "encoder_embed_dim": 1024,
        "encoder_ffn_embed_dim": 4096,
        "encoder_attention_heads": 16,
        "final_dim": 768,
        "extractor_mode": "layer_norm",
        "layer_norm_first": True,
        "conv_bias": True,
        "num_negatives": NEGATIVES,
    },
    "wide": {
        "encoder_layers": 1,
        "encoder_embed_dim": 1280,
        "encoder_ffn_embed_dim": 5120,
        "encoder_attention_heads": 16,
        "final_dim": 1024,
        "extractor_mode": "layer_norm",
        "layer_norm_first": True,
        "conv_bias": True,
        "num_negatives": NEGATIVES,
    },
    # No projection after the extractor, other codebooks and convolutions.
    "narrow": {
        "encoder_layers": 2,
        "encoder_embed_dim": 64,
        "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 4,
        "conv_feature_layers": "[(32, 10, 5)] + [(48, 3, 2)] * 2 + [(64, 2, 2)]",
        "conv_pos": 32,
        "conv_pos_groups": 8,
        "final_dim": 0,
        "latent_vars": 20,
        "latent_groups": 4,
        "num_negatives": NEGATIVES,
    },
}


def section(config, name, **values):
    """A section of a configuration; references to other sections are not yet resolved."""
    fields = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    return {**fields, "_name": name, **values}


def whole(model, task):
    """A complete configuration as fairseq's trainer stores it."""
    config = {**section(FairseqConfig(), None), "model": model, "task": task}
    return OmegaConf.to_container(OmegaConf.create(config), resolve=True, enum_to_str=True)


def pretraining_configuration(size):
    model = section(Wav2Vec2Config(), "wav2vec2", quantize_targets=True, **SIZES[size])
    normalize = model["layer_norm_first"]
    task = section(
        AudioPretrainingConfig(), "audio_pretraining", data="/nowhere", normalize=normalize
    )
    return whole(model, task)


def finetuning_configuration(pretraining, folder):
    normalize = pretraining["task"]["normalize"]
    task = section(
        AudioFinetuningConfig(),
        "audio_finetuning",
        data=str(folder),
        normalize=normalize,
        labels="ltr",
    )
    model = section(Wav2Vec2CtcConfig(), "wav2vec_ctc", w2v_path="/nowhere", w2v_args=pretraining)
    return whole(model, task)


def hubert_configuration(size, folder):
    values = {name: value for name, value in SIZES[size].items() if name != "num_negatives"}
    model = section(HubertConfig(), "hubert", label_rate=50.0, **values)
    normalize = model["layer_norm_first"]
    task = section(
        HubertPretrainingConfig(), "hubert_pretraining", data=str(folder), normalize=normalize
    )
    return whole(model, {**task, "labels": ["km"], "label_rate": 50.0})


def hubert_ctc_configuration(pretraining, folder):
    task = {**pretraining["task"], "fine_tuning": True, "labels": ["ltr"]}
    model = section(HubertCtcConfig(), "hubert_ctc", w2v_path="/nowhere", w2v_args=pretraining)
    return whole({**model, "autoregressive": False}, task)  # read, but not in its dataclass


def mms_configuration(folder):
    configuration = finetuning_configuration(pretraining_configuration("large"), folder)
    adapters = {"layer_type": "trf_adp", "adp_num": 1, "adp_dim": 16, "adp_trf_idx": "all"}
    return {**configuration, "model": {**configuration["model"], **adapters}}


def build(configuration):
    config = OmegaConf.create(configuration)
    task = fairseq.tasks.setup_task(config.task, from_checkpoint=True)
    if config.model._name == "hubert_ctc":
        model = HubertCtc.build_model(config.model, task)
    else:
        model = task.build_model(config.model, from_checkpoint=True)
    with torch.no_grad():
        for (
            parameter
        ) in model.parameters():  # norms that are not the identity, biases that are not zero
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval(), task


def flat(configuration):
    """The layout until late 2020."""
    merged = {**configuration["task"], **configuration["model"]}
    nested = merged.pop("w2v_args", None)
    merged.pop("_name")
    merged["arch"] = configuration["model"]["_name"]
    merged["task"] = configuration["task"]["_name"]
    if nested is not None:
        merged["w2v_args"] = flat(nested)
    return argparse.Namespace(**merged)


def state(model, task, **configuration):
    """The content of a checkpoint of fairseq's trainer."""
    progress = {"best": np.float64(3.5), "train_iterator": {"epoch": 2}, "val_loss": 1.0}
    meter = fairseq.logging.meters.AverageMeter()
    optimizer = torch.optim.Adam(model.parameters())
    return {
        "args": None,
        "cfg": None,
        **configuration,
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [{"criterion_name": "CtcCriterion", "num_updates": 100}],
        "task_state": task.state_dict(),
        "extra_state": {**progress, "train_meters": {"loss": meter}},
        "last_optimizer_state": optimizer.state_dict(),
    }


def inputs(normalize):
    generator = torch.Generator().manual_seed(3)
    source = torch.randn(2, 6000, generator=generator)
    if normalize:
        source = torch.nn.functional.layer_norm(source, source.shape[1:])
    return source


def run(model, source, mask_from=2, mask_to=9):
    """The model's context vectors, and the logits of its task without dropout."""
    with torch.no_grad():
        if hasattr(model, "w2v_encoder"):
            adapted = getattr(model.cfg, "layer_type", "") == "trf_adp"
            which = {"corpus_key": [0] * len(source)} if adapted else {}
            output = model(source=source, padding_mask=None, **which)["encoder_out"]
            return {"logits": output.transpose(0, 1)}
        context = model.extract_features(source, padding_mask=None, mask=False)["x"]
        mask = torch.zeros(context.shape[:2], dtype=torch.bool)
        mask[:, mask_from:mask_to] = True
        rows, masked = len(source), mask_to - mask_from
        generator = torch.Generator().manual_seed(4)
        drawn = torch.randint(masked - 1, (rows, masked, NEGATIVES), generator=generator)
        distractors = drawn + (drawn >= torch.arange(masked)[:, None])

        def sample_negatives(y, number, padding_count=None):
            chosen = torch.stack([y[row][distractors[row]] for row in range(rows)])
            return chosen.permute(2, 0, 1, 3), None

        model.sample_negatives = sample_negatives
        output = model(source, padding_mask=None, mask=True, mask_indices=mask)
        return {
            "context": context,
            "logits": output["x"].permute(1, 2, 0),  # [rows, masked, 1 + distractors]
            "distractors": distractors,
            "masked": torch.arange(mask_from, mask_to).expand(rows, -1),
            "code_perplexity": output["code_perplexity"],
            "prob_perplexity": output["prob_perplexity"],
        }


def make(folder):
    """Save models of every size, pre-trained and fine-tuned, in every layout."""
    (folder / "dict.ltr.txt").write_text("".join(f"{symbol} 5\n" for symbol in SYMBOLS))
    (folder / "dict.km.txt").write_text("".join(f"{cluster} 5\n" for cluster in range(9)))
    (folder / "others").mkdir()
    make_others(folder / "others")
    for size in SIZES:
        torch.manual_seed(1)
        pretraining = pretraining_configuration(size)
        finetuning = finetuning_configuration(pretraining, folder)
        for kind, configuration in (("pretrained", pretraining), ("finetuned", finetuning)):
            model, task = build(configuration)
            if kind == "finetuned":
                assert isinstance(task.target_dictionary, Dictionary)
            name = f"{size}_{kind}"
            source = inputs(configuration["task"]["normalize"])
            torch.save({"source": source, **run(model, source)}, folder / f"{name}.outputs")
            plain = state(model, task, cfg=configuration)
            torch.save(plain, folder / f"{name}_cfg.pt")
            if size in ("base", "narrow"):
                nodes = OmegaConf.create(configuration)
                OmegaConf.set_struct(nodes, True)
                torch.save({**plain, "cfg": nodes, "task_state": {}}, folder / f"{name}_nodes.pt")
                old = {**plain, "cfg": None, "args": flat(configuration), "task_state": {}}
                path = folder / f"{name}_args.pt"
                torch.save(old, path, _use_new_zipfile_serialization=False)


def make_others(folder):
    """Save HuBERT, pre-trained and fine-tuned, and a recogniser with adapters as MMS has."""
    for size in ("base", "large"):
        torch.manual_seed(2)
        pretraining = hubert_configuration(size, folder.parent)
        finetuning = hubert_ctc_configuration(pretraining, folder.parent)
        for kind, configuration in (("pretrained", pretraining), ("finetuned", finetuning)):
            model, task = build(configuration)
            source = inputs(configuration["task"]["normalize"])
            with torch.no_grad():
                if kind == "finetuned":
                    output = model(source=source, padding_mask=None)["encoder_out"].transpose(0, 1)
                else:
                    output = model.extract_features(source, padding_mask=None, mask=False)[0]
            name = f"hubert-{size}_{kind}"
            torch.save({"source": source, "output": output}, folder / f"{name}.outputs")
            torch.save(state(model, task, cfg=configuration), folder / f"{name}.pt")
    model, task = build(mms_configuration(folder.parent))
    saved = state(model, task, cfg=mms_configuration(folder.parent))
    saved["adapter"] = {}
    source = inputs(True)
    for code, symbols in LANGUAGES.items():
        # As examples/speech_recognition/new/infer.py exchanges adapters and output layer.
        dictionary = Dictionary()
        for symbol in symbols:
            dictionary.add_symbol(symbol)
        model.w2v_encoder.proj = torch.nn.Linear(1024, len(dictionary))
        own = {}
        for name, parameter in model.named_parameters():
            if ".adapter_layer." in name or ".proj." in name:
                parameter.data = torch.randn_like(parameter) * 0.05
                own[name] = parameter.data.clone()
        task_state = {"target_dictionary": dictionary}
        saved["adapter"][code] = {"model": own, "task_state": task_state}
        outputs = {"source": source, "output": run(model, source)["logits"]}
        torch.save(outputs, folder / f"mms_{code}.outputs")
    torch.save(saved, folder / "mms.pt")


def load_and_run(checkpoint, given, outputs):
    models, _, _ = fairseq.checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    torch.save(run(models[0].eval(), torch.load(given)["source"]), outputs)


if __name__ == "__main__":
    command, *paths = sys.argv[1:]
    {"make": make, "run": load_and_run}[command](*map(Path, paths))
