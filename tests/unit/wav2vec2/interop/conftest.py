"""Checkpoints with random weights in the layouts of fairseq and of NVIDIA's recipe."""

import argparse

import torch

from tests.unit.wav2vec2.interop import names

SYMBOLS = ["|", "E", "T", "A"]
UNITS = 4 + len(SYMBOLS)
DICTIONARY = "".join(f"{symbol} 7\n" for symbol in SYMBOLS)


def weights(shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in shapes.items()}


def settings(sizes, heads=4, **others):
    """The settings of a model under the names of fairseq and of NVIDIA's recipe."""
    return {
        "extractor_mode": "layer_norm" if sizes.layer_norm else "default",
        "encoder_layers": sizes.layers,
        "encoder_embed_dim": sizes.dim,
        "encoder_attention_heads": heads,
        "activation_fn": "gelu",
        "layer_norm_first": sizes.layer_norm,
        "conv_feature_layers": str(list(sizes.conv)),
        "conv_bias": sizes.conv_bias,
        "final_dim": sizes.final,
        **others,
    }


def fairseq_pretrained(sizes, layout="cfg", normalize=False, dtype=torch.float32):
    model = {"_name": "wav2vec2", **settings(sizes)}
    content = {"model": weights(names.pretraining(sizes), dtype), "args": None, "cfg": None}
    if layout == "cfg":
        content["cfg"] = {"model": model, "task": {"normalize": normalize}}
    else:
        content["args"] = argparse.Namespace(**model, normalize=normalize)
    return content


def fairseq_finetuned(sizes, layout="cfg", normalize=False, dtype=torch.float32):
    pretrained = fairseq_pretrained(sizes, layout, normalize)
    content = {"model": weights(names.ctc(sizes, UNITS), dtype), "args": None, "cfg": None}
    if layout == "cfg":
        content["cfg"] = {
            "model": {"_name": "wav2vec_ctc", "w2v_args": pretrained["cfg"]},
            "task": {"normalize": normalize, "labels": "ltr"},
        }
    else:
        content["args"] = argparse.Namespace(
            w2v_args=pretrained["args"], normalize=normalize, labels="ltr"
        )
    return content


def fairseq_hubert(sizes, normalize=False):
    """A pre-trained HuBERT, as hubert_base_ls960.pt."""
    model = {"_name": "hubert", **settings(sizes), "layer_type": "transformer"}
    task = {"_name": "hubert_pretraining", "normalize": normalize, "labels": ["km"]}
    return {
        "model": weights(names.hubert(sizes)),
        "args": None,
        "cfg": {"model": model, "task": task},
    }


def fairseq_hubert_ctc(sizes, normalize=False):
    """A fine-tuned HuBERT, as hubert_large_ll60k_finetune_ls960.pt."""
    inner = fairseq_hubert(sizes, normalize)["cfg"]
    task = {"_name": "hubert_pretraining", "normalize": normalize, "labels": ["ltr"]}
    model = {"_name": "hubert_ctc", "w2v_args": inner}
    content = weights(names.hubert_ctc(sizes, UNITS))
    return {"model": content, "args": None, "cfg": {"model": model, "task": task}}


LANGUAGES = {"deu": [*SYMBOLS, "\u00e4", "\u00df"], "eng": SYMBOLS, "fra": ["|", *"abc\u00e9"]}
INNER = 3
"""Width inside the adapters."""


def fairseq_mms(sizes, languages=LANGUAGES, corpora=1):
    """A recogniser with adapters for languages, as mms1b_all.pt; the model is of the second."""
    content = fairseq_finetuned(sizes, normalize=True)
    model = content["cfg"]["model"]
    model |= {"layer_type": "trf_adp", "adp_num": corpora, "adp_dim": INNER}
    model |= {"adp_act_fn": "relu", "adp_trf_idx": "all"}
    shapes = names.adapters(sizes, INNER, corpora)
    content["model"] |= weights(shapes)
    table = {}
    for number, (code, symbols) in enumerate(languages.items()):
        head = names.linear("w2v_encoder.proj", 4 + len(symbols), sizes.dim)
        own = {name: tensor + number for name, tensor in weights(shapes | head).items()}
        listed = ["<s>", "<pad>", "</s>", "<unk>", *symbols]
        state = {"target_dictionary": {"symbols": listed}}  # as replace_stubs leaves it
        table[code] = {"model": own, "task_state": state}
    return {**content, **({"adapter": table} if table else {})}


def nvidia(sizes, mode, **args):
    shapes = names.pretraining(sizes) if mode == "pretrain" else names.ctc(sizes, UNITS)
    hourglass = None
    if sizes.hourglass:
        before, shortened, after, factor = sizes.hourglass
        hourglass = f"[{before},({shortened},{factor}),{after}]"
    content = {
        "args": settings(
            sizes,
            mode=mode,
            normalize=False,
            hourglass_transformer=hourglass,
            hourglass_resample="linear" if sizes.linear_resampling else "naive",
            rotary_embeddings=False,
            use_spectrogram_features=False,
            labels="ltr",
            **args,
        ),
        "model": weights(shapes),
        "ema_model": None,
        "optimizer": {"state": {}, "param_groups": []},
        "scaler": {},
        "train_state": {"step": 10, "epoch": 2, "best_val_loss": float("inf")},
    }
    if mode == "finetune":
        content["output_labels"] = DICTIONARY
    return content
