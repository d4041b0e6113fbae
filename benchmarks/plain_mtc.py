"""MTC (Wang, Gao and Lei) in plain Keras layers, as the baseline of the faster implementation."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
from keras import layers

from flowloom.trainers.layers.byte_mask import ByteMask
from flowloom.trainers.layers.position_embedding import StepPositions
from flowloom.trainers.models.byte_transformer import positions as sines
from flowloom.trainers.models.tokens import with_bits

NORM = {"epsilon": 1e-5}
BATCH_NORM = {**NORM, "momentum": 0.9}


def encoder(name: str, tokens: Any, attention_heads: int) -> Any:
    """One encoder layer: tokens [B, n, d] to [B, n, d]."""
    width = tokens.shape[-1]
    attention = layers.MultiHeadAttention(
        attention_heads, max(1, width // attention_heads), use_bias=False, name=f"{name}_attention"
    )
    merged = layers.Add()([tokens, attention(tokens, tokens)])
    tokens = layers.LayerNormalization(**NORM, name=f"{name}_attention_norm")(merged)
    hidden = layers.Dropout(0.1)(layers.Dense(1024, activation="relu", name=f"{name}_widen")(tokens))
    fed = layers.Dropout(0.1)(layers.Dense(width, name=f"{name}_narrow")(hidden))
    return layers.LayerNormalization(**NORM, name=f"{name}_output_norm")(layers.Add()([tokens, fed]))


def convolution(name: str, x: Any, filters: int, kernel: int, dropout: float | None) -> Any:
    """One convolution, normalised over the batch; then a ReLU and dropout: [B, L, C] to [B, L, filters]."""
    x = layers.Conv1D(filters, kernel, padding="same", use_bias=False, name=f"{name}_weight")(x)
    x = layers.BatchNormalization(**BATCH_NORM, name=f"{name}_norm")(x)
    return x if dropout is None else layers.Dropout(dropout)(layers.ReLU()(x))


def bottleneck(name: str, x: Any, middle: int, filters: int, dropout: float, received: Any = None) -> tuple[Any, Any]:
    """Three convolutions beside a residual: [B, L, C] to [B, L, filters], and what the second one gives."""
    y = convolution(f"{name}_first", x, middle, 1, dropout)
    if received is not None:
        y = layers.Add()([y, received])
    between = convolution(f"{name}_second", y, middle, 3, dropout)
    y = convolution(f"{name}_third", between, filters, 1, dropout)
    if x.shape[-1] != filters:
        x = convolution(f"{name}_widen", x, filters, 1, None)
    return layers.Add()([x, y]), between


def plain_mtc(
    tokens: tuple[int, int],
    tasks: Mapping[str, int],
    transformer_tasks: Collection[str],
    *,
    stem: int = 1,
    repetitions: Sequence[int] = (1, 5, 6),
    attention_heads: int = 6,
    dropout: float = 0.07,
    lite: bool = False,
) -> keras.Model:
    """Returns MTC over uint8 [B, n d] for tokens of the shape (n, d); outputs are softmaxes of all classes.

    Args:
      lite: with bits, positions, a wide readout, and a fifth of the bytes masked; the first two and the mask are
        those of `trainers`.
    """
    n, d = tokens
    given = keras.Input((n * d,), dtype="uint8", name="bytes")
    x = layers.Rescaling(1 / 255)(given)
    t = layers.Reshape((n, d))(ByteMask(0.2)(x) if lite else x)  # [B, n, d]
    seen = with_bits(t) if lite else t  # [B, n, 9 d]
    c = layers.Reshape((n * d // stem, seen.shape[-1] // d * stem))(seen)  # [B, L, stem or 9 stem]
    if lite:
        t = layers.Dense(d, name="token_projection")(seen) + sines(n, d)
        c = StepPositions(name="step_positions")(c)
    per_token = n * d // stem // n
    for block, (middle, filters) in enumerate([(50, 100), (50, 100), (100, 200)]):
        c, between = bottleneck(f"bottleneck_{block}_0", c, middle, filters, dropout)
        if block:
            down = layers.AveragePooling1D(per_token)(layers.Conv1D(d, 1, name=f"down_{block}")(between))  # [B, n, d]
            down = layers.LayerNormalization(**NORM, center=False, scale=False)(down)
            t = layers.LayerNormalization(**NORM, name=f"down_{block}_merge_norm")(layers.Add()([t, down]))
        for m in range(repetitions[block]):
            t = encoder(f"encoder_{block}_{m}", t, attention_heads)
        if block:
            up = layers.Conv1D(middle, 1, name=f"up_{block}")(t)  # [B, n, middle]
            up = layers.UpSampling1D(per_token)(layers.BatchNormalization(**BATCH_NORM, name=f"up_{block}_norm")(up))
            c, _ = bottleneck(f"bottleneck_{block}_1", c, middle, filters, dropout, up)
    if lite:
        read = layers.Concatenate()([layers.Flatten()(c), layers.Flatten()(seen)])
        read = layers.Dense(256, use_bias=False, name="readout")(layers.Dropout(0.5)(read))
        read = layers.Dropout(0.5)(layers.ReLU()(layers.BatchNormalization(**BATCH_NORM, name="readout_norm")(read)))
    else:
        read = layers.GlobalAveragePooling1D()(c)
    features = {True: layers.Flatten()(t), False: read}
    outputs = {
        task: layers.Dense(classes, activation="softmax", name=f"{task}_head")(features[task in transformer_tasks])
        for task, classes in tasks.items()
    }
    return keras.Model({"bytes": given}, outputs)


def paired_weights(plain: keras.Model, model: keras.Model) -> list[tuple[keras.Variable, keras.Variable]]:
    """Returns each weight of a plain MTC with its counterpart in the fast MTC of the same sizes.

    Shapes may differ; layers have matching names.
    """
    wanted = {variable.path.replace("/", "_"): variable for variable in model.weights}
    projections = {"query": "query", "key": "key", "value": "value", "attention_output": "mix"}
    found = []
    for layer in plain.layers:
        for variable in layer.weights:
            name = variable.path.replace("/", "_")
            if isinstance(layer, layers.MultiHeadAttention):
                name = f"{layer.name}_{projections[variable.path.split('/')[-2]]}"
            for word in ("weight", "widen", "narrow"):
                name = name.replace(f"_{word}_kernel", f"_{word}")
            found.append((variable, wanted.pop(name)))
    assert not wanted, sorted(wanted)
    return found


def copy_weights(plain: keras.Model, model: keras.Model) -> None:
    """Gives the weights of a plain MTC to one of `trainers.mtc` of the same sizes."""
    for variable, target in paired_weights(plain, model):
        target.assign(variable.numpy().reshape(target.shape))
