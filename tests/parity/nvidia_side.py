"""Runs the public sources of NVIDIA's recipe on a CPU and records what they compute.

`python nvidia_side.py REFERENCE_DIR RECORDS PROGRAM [ARGUMENT ...]` runs `train.py` or
`inference.py` of the sources as they are.  Only what they import for GPUs, logs and unused features
is replaced by empty modules, and their fused Adam by the Adam in torch operations of the same
sources.  The program `models` builds models of the recipe's sizes instead.  RECORDS is what was
drawn and computed in training.  Runs in a process of its own, because the sources name their
packages like ours; needs nothing of this repository.
"""

import importlib.machinery
import importlib.util
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F

SYMBOLS = ["|", "E", "T", "A", "O", "N"]


class Empty(ModuleType):
    """A module in which every name is a function that does nothing."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


class Anything:
    """Callable, and has every attribute."""

    def __call__(self, *arguments, **options):
        # As a decorator with arguments, such as numba's, it leaves the function as it is.
        return arguments[0] if arguments and callable(arguments[0]) else self

    def __getattr__(self, name):
        return self


def replace_modules():
    """Empty modules for what is not installed; no apex, whose kernels need a GPU."""
    for name in ("amp_C", "dllogger", "librosa", "numba", "omegaconf"):
        if name == "amp_C" or importlib.util.find_spec(name) is None:
            module = Empty(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
    sys.modules["apex"] = None


def replace_devices():
    """Everything that would be moved to a GPU stays; the sources' check for one passes."""
    torch.cuda.is_available = lambda: True
    torch.cuda.manual_seed = lambda seed: None
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.nn.Module.cuda = lambda self, device=None: self
    torch.Tensor.cuda = lambda self, *_, **__: self
    loader = torch.utils.data.DataLoader.__init__

    def without_pinning(self, *arguments, **options):
        loader(self, *arguments, **{**options, "pin_memory": False})

    torch.utils.data.DataLoader.__init__ = without_pinning
    load = torch.load
    torch.load = lambda *a, **options: load(*a, **{"weights_only": False, **options})


class Recorder:
    """Collects the draws and results of each training step of the sources."""

    def __init__(self):
        self.content = {"steps": [], "rates": [], "initial": None, "gradients": None}
        self.model, self.step = None, None

    def draw(self, name, value):
        if self.step is not None:
            self.step.setdefault(name, []).append(torch.as_tensor(value).clone())

    def watch(self):
        """Wrap the functions of the sources that draw, compute the loss, and update."""
        import common.optimizers
        import wav2vec2.model
        from common.fairseq.optim.adam import Adam
        from wav2vec2.criterion import CTCCriterion, Wav2vecCriterion

        indices = wav2vec2.model.compute_mask_indices

        def compute_mask_indices(*arguments, **options):
            found = indices(*arguments, **options)
            self.draw("masks", found)
            return found

        wav2vec2.model.compute_mask_indices = compute_mask_indices
        negatives = wav2vec2.model.Wav2Vec2Model.sample_negatives

        def sample_negatives(model, *arguments, **options):
            found = negatives(model, *arguments, **options)
            self.draw("negatives", found[1])
            return found

        wav2vec2.model.Wav2Vec2Model.sample_negatives = sample_negatives
        softmax = F.gumbel_softmax

        def gumbel_softmax(logits, *arguments, **options):
            state = torch.get_rng_state()
            noise = torch.empty_like(logits, memory_format=torch.legacy_contiguous_format)
            self.draw("noise", -noise.exponential_().log())
            torch.set_rng_state(state)  # which draws the same again
            return softmax(logits, *arguments, **options)

        F.gumbel_softmax = gumbel_softmax
        for criterion in (Wav2vecCriterion, CTCCriterion):
            criterion.forward = self.recording(criterion.forward)
        recorder = self

        class ScaledAdam(Adam):
            """The sources' Adam, with the division by `scale` of the fused one."""

            def step(self, closure=None, scale=1.0):
                for group in self.param_groups:
                    for parameter in group["params"]:
                        if parameter.grad is not None:
                            parameter.grad.div_(scale)
                recorder.updated(self)
                super().step(closure)

        common.optimizers.get_fused_adam_class = lambda: ScaledAdam

    def recording(self, forward):
        """A criterion's forward that records its batch, its draws and its results."""

        def recorded(criterion, model, sample, reduce=True):
            self.model = model
            if not model.training:
                return forward(criterion, model, sample, reduce)
            if self.content["initial"] is None:
                state = model.state_dict()
                self.content["initial"] = {name: t.clone() for name, t in state.items()}
            self.step = {"source": sample["net_input"]["source"].clone()}
            for name in ("target", "target_lengths", "sub_batch_sizes"):
                if name in sample:
                    self.step[name] = sample[name].clone()
            loss, size, log = forward(criterion, model, sample, reduce)
            self.step |= {"loss": loss.item(), "size": int(size), "log": dict(log)}
            self.content["steps"].append(self.step)
            self.step = None
            return loss, size, log

        return recorded

    def updated(self, optimizer):
        self.content["rates"].append(optimizer.param_groups[0]["lr"])
        if self.content["gradients"] is None:
            self.content["gradients"] = gradients(self.model)


def gradients(model):
    """The gradients by the names of the model's state, zero where there are none."""
    found = {}
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        if ".qkv." in name:
            for part, tensor in zip("qkv", gradient.chunk(3)):
                found[name.replace(".qkv.", f".{part}_proj.")] = tensor
        else:
            found[name] = gradient
    return found


def arguments_of(mode, flags):
    """The arguments of train.py, as its own parser gives them."""
    import argparse

    import wav2vec2.arg_parser

    sys.argv = ["train.py", mode, "--output_dir", "unused", *flags]
    parser = argparse.ArgumentParser()
    wav2vec2.arg_parser.populate(parser)
    return parser.parse_args()


NO_DROPOUT = """--dropout 0 --dropout_input 0 --dropout_features 0 --encoder_layerdrop 0
    --attention_dropout 0 --activation_dropout 0 --mha pyt"""
RECIPE = f"{NO_DROPOUT} --infonce --quantize_targets --mask_prob 0.65"
LARGE = """--encoder_embed_dim 1024 --encoder_ffn_embed_dim 4096 --encoder_attention_heads 16
    --final_dim 768 --extractor_mode layer_norm --layer_norm_first --conv_bias --normalize
    --encoder_layers 2 --loss_weights 0.1 0.0 --latent_temp 2.0 0.1 0.999995
    --feature_grad_mult 1.0"""
MODELS = {
    "base_hourglass": "--hourglass_transformer [2,(8,4),2]",
    "base_linear": "--hourglass_transformer [1,(2,3),1] --hourglass_resample linear",
    "base_4_layers": "--encoder_layers 4",
    "large_2_layers": LARGE,
}
"""The recipe's widths: Base with its hourglass in full, others with fewer layers."""


def sample_of(source):
    sizes = torch.tensor([len(source)])
    lens = torch.tensor([source.shape[1]])
    net_input = {"source": source}
    return {"net_input": net_input, "id": torch.arange(len(source))} | {
        "sub_batch_sizes": sizes,
        "sub_batch_lens": lens,
    }


def make_models(recorder, folder):
    """A pre-trained and a fine-tuned checkpoint of each size, and what each model computes."""
    import numpy as np

    from common.fairseq.data import Dictionary
    from wav2vec2.criterion import Wav2vecCriterion
    from wav2vec2.utils import build_model

    dictionary = folder / "dict.ltr.txt"
    dictionary.write_text("".join(f"{symbol} 5\n" for symbol in SYMBOLS))
    for name, flags in MODELS.items():
        torch.manual_seed(1)
        np.random.seed(1)
        args = arguments_of("pretrain", f"{RECIPE} {flags}".split())
        model = build_model(args)[0]
        shake(model)
        source = 0.3 * torch.randn(2, 24_000)
        if args.normalize:
            source = F.layer_norm(source, source.shape[1:])
        save(folder / f"{name}.pt", model, args)
        with torch.no_grad():
            context = model.eval().extract_features(source, None)["x"]
        recorder.content = {"steps": [], "initial": {}}
        loss, _, _ = Wav2vecCriterion(args)(model.train(), sample_of(source))
        loss.backward()
        (step,) = recorder.content["steps"]
        save(folder / f"{name}_gradients.pt", model, args, gradients(model))
        args = arguments_of("finetune", NO_DROPOUT.split())
        args.w2v_path = str(folder / f"{name}.pt")
        import wav2vec2.utils

        wav2vec2.utils.update_args_for_finetuning(args, args.w2v_path)
        recogniser = build_model(args, "finetune", Dictionary.load(str(dictionary)))[0].eval()
        with torch.no_grad():
            output = recogniser(source, torch.zeros_like(source, dtype=torch.bool))
        labels = {"output_labels": dictionary.read_text()}
        save(folder / f"{name}_ctc.pt", recogniser, args, **labels)
        logits = output["encoder_out"].transpose(0, 1)
        results = {"context": context, "step": step, "logits": logits}
        torch.save(results, folder / f"{name}.outputs")


def shake(model):
    """Move norms' gains and biases off 1 and 0, so that none can be mixed up unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


def save(path, model, args, state=None, **more):
    """A checkpoint in the layout of the sources' Checkpointer; `state` instead of the weights."""
    content = {"args": vars(args), "model": model.state_dict() if state is None else state}
    torch.save({**content, **more}, path)


def learning_rates():
    """The rate of each update of two schedules: the optimizer is set after an update for the next,
    and before the first update for that."""
    from common.optimizers import lr_exp_policy, lr_poly_policy

    optimizer = SimpleNamespace(param_groups=[{}])
    poly = {"lr": 5e-4, "warmup_steps": 40, "num_steps": 200}
    exp = {"lr": 3e-5, "initial_lr_scale": 0.01, "final_lr_scale": 0.05, "warmup_steps": 20}
    exp |= {"hold_steps": 80, "num_steps": 200}
    found = {}
    for name, policy, options in (
        ("polynomial", lr_poly_policy, poly),
        ("three_stage", lr_exp_policy, exp),
    ):
        found[name] = []
        for update in range(1, 201):
            policy(max(update - 1, 1), optimizer, **options)
            found[name].append(optimizer.param_groups[0]["lr"])
    return found


def main():
    reference, records, program, *arguments = sys.argv[1:]
    sys.path[0] = reference  # instead of this file's folder
    replace_modules()
    recorder = Recorder()
    os.chdir(Path(records).parent)
    replace_devices()
    if program != "inference.py":
        recorder.watch()
    if program == "models":
        make_models(recorder, Path(records).parent)
        recorder.content = {"rates": learning_rates()}
    else:
        sys.argv = [program, *arguments]
        runpy.run_path(str(Path(reference) / program), run_name="__main__")
    torch.save(recorder.content, records)


if __name__ == "__main__":
    main()
