"""Hidden states: the output of any transformer layer of the encoder."""

from torch import Tensor, nn

from wav2vec2.hourglass import HourglassStack
from wav2vec2.trunk import Frames, Wav2Vec2


def layer_count(model: Wav2Vec2) -> int:
    """Number of transformer layers of the encoder."""
    return len(model.encoder.stack.layers)


def shortening(model: Wav2Vec2, layer: int) -> int:
    """Extractor frames per frame of `hidden_states`: above 1 only in the middle of an hourglass."""
    stack = model.encoder.stack
    middle = isinstance(stack, HourglassStack) and stack.pre < layer <= stack.post_start
    return stack.factor if middle and layer < layer_count(model) else 1


def hidden_states(model: Wav2Vec2, frames: Frames, layer: int) -> Tensor:
    """Compute the output of layer `layer`, `[batch, frames, D]`; 0 to `layer_count(model)`.

    The middle layers of an hourglass give `[batch, ceil(frames / factor), D]`.  Layers are numbered
    as in transformers' `hidden_states`.  0 is the first layer's input, after the positional
    convolution and, in post-LN models, the norm.  The last number is the encoder's output at the
    full rate, after the final norm in pre-LN models.  transformers 5 returns that only as
    `last_hidden_state`.  Layers after `layer` do not run.
    """
    assert 0 <= layer <= layer_count(model), layer
    if layer == layer_count(model):
        return model.encode(frames)
    found: list[Tensor] = []

    def keep_input(module: nn.Module, inputs: tuple) -> None:
        found.append(inputs[0])

    def keep_output(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        found.append(output)

    stack = model.encoder.stack
    if layer == 0:
        hook = stack.register_forward_pre_hook(keep_input)
    else:
        hook = stack.layers[layer - 1].register_forward_hook(keep_output)
    try:
        model.encode(frames, kept_layers=[n < layer for n in range(layer_count(model))])
    finally:
        hook.remove()
    return found[0]


def all_hidden_states(model: Wav2Vec2, frames: Frames) -> list[Tensor]:
    """Compute `hidden_states` of the layers from 1 on, in one pass."""
    found: list[Tensor] = []

    def keep_output(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        found.append(output)

    hooks = [layer.register_forward_hook(keep_output) for layer in model.encoder.stack.layers]
    try:
        last = model.encode(frames)
    finally:
        for hook in hooks:
            hook.remove()
    return [*found[:-1], last]
