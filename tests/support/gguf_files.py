"""Small but real GGUF files, written with the gguf package: weights of language models, embedders and projectors."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

_EMBEDDING = 64  # width of every made-up model
_HEADS = 4
_BLOCKS = 2
_F16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """What a weights file is to look like. ``weight_bytes``: about how large its tensors are."""

    architecture: str
    name: str
    context_length: int
    weight_bytes: int
    seed: int


def language_model(shape: Shape) -> bytes:
    """A llama-like decoder: embedding, attention and feed-forward tensors, and a SentencePiece-like vocabulary."""
    writer = _writer(shape)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_EMBEDDING // _HEADS)
    _add_vocabulary(writer, "llama", ["<unk>", "<s>", "</s>", *_words()])
    tensors = _Tensors(writer, shape.seed)
    tensors.add("token_embd.weight", _vocabulary_size(), _EMBEDDING)
    feed_forward = _feed_forward(shape.weight_bytes, matrices=3)
    writer.add_feed_forward_length(feed_forward)
    for block in range(_BLOCKS):
        tensors.add_norm(f"blk.{block}.attn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.add(f"blk.{block}.{part}.weight", _EMBEDDING, _EMBEDDING)
        tensors.add_norm(f"blk.{block}.ffn_norm.weight")
        tensors.add(f"blk.{block}.ffn_gate.weight", feed_forward, _EMBEDDING)
        tensors.add(f"blk.{block}.ffn_up.weight", feed_forward, _EMBEDDING)
        tensors.add(f"blk.{block}.ffn_down.weight", _EMBEDDING, feed_forward)
    tensors.add_norm("output_norm.weight")
    tensors.add("output.weight", _vocabulary_size(), _EMBEDDING)
    return _written(writer)


def embedder(shape: Shape) -> bytes:
    """A nomic-bert encoder: bidirectional attention, mean pooling, a WordPiece-like vocabulary, no output head."""
    writer = _writer(shape)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)  # noqa: FBT003 - the gguf package's own signature
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_rope_freq_base(1000.0)
    _add_vocabulary(writer, "bert", ["[PAD]", "[UNK]", "[CLS]", *_words()])
    tensors = _Tensors(writer, shape.seed)
    tensors.add("token_embd.weight", _vocabulary_size(), _EMBEDDING)
    tensors.add_norm("token_embd_norm.weight")
    feed_forward = _feed_forward(shape.weight_bytes, matrices=3)
    writer.add_feed_forward_length(feed_forward)
    for block in range(_BLOCKS):
        tensors.add(f"blk.{block}.attn_qkv.weight", 3 * _EMBEDDING, _EMBEDDING)
        tensors.add(f"blk.{block}.attn_output.weight", _EMBEDDING, _EMBEDDING)
        tensors.add_norm(f"blk.{block}.attn_output_norm.weight")
        tensors.add(f"blk.{block}.ffn_gate.weight", feed_forward, _EMBEDDING)
        tensors.add(f"blk.{block}.ffn_up.weight", feed_forward, _EMBEDDING)
        tensors.add(f"blk.{block}.ffn_down.weight", _EMBEDDING, feed_forward)
        tensors.add_norm(f"blk.{block}.layer_output_norm.weight")
    return _written(writer)


def projector(shape: Shape) -> bytes:
    """A CLIP image encoder with the matrices that project into a language model's space."""
    writer = gguf.GGUFWriter(None, "clip")
    writer.add_name(shape.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_clip_has_vision_encoder(True)  # noqa: FBT003 - the gguf package's own signature
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(336)
    writer.add_vision_patch_size(14)
    writer.add_vision_embedding_length(_EMBEDDING)
    writer.add_vision_block_count(_BLOCKS)
    writer.add_vision_head_count(_HEADS)
    writer.add_vision_projection_dim(_EMBEDDING)
    tensors = _Tensors(writer, shape.seed)
    feed_forward = _feed_forward(shape.weight_bytes, matrices=2)
    writer.add_vision_feed_forward_length(feed_forward)
    tensors.add("v.patch_embd.weight", _EMBEDDING, 3 * 14 * 14)
    for block in range(_BLOCKS):
        tensors.add_norm(f"v.blk.{block}.ln1.weight")
        tensors.add(f"v.blk.{block}.ffn_up.weight", feed_forward, _EMBEDDING)
        tensors.add(f"v.blk.{block}.ffn_down.weight", _EMBEDDING, feed_forward)
    tensors.add("mm.0.weight", _EMBEDDING, _EMBEDDING)
    tensors.add("mm.2.weight", _EMBEDDING, _EMBEDDING)
    return _written(writer)


class _Tensors:
    """Puts tensors of made-up numbers into a writer, the same ones for the same seed."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self._writer = writer
        self._random = np.random.Generator(np.random.PCG64(seed))

    def add(self, name: str, rows: int, columns: int) -> None:
        bits: npt.NDArray[np.uint16] = self._random.integers(0, 1 << 16, (rows, columns), np.uint16)
        # Sign and mantissa at random, the exponent kept between 2^-3 and 2^-2: finite numbers only.
        self._writer.add_tensor(name, ((bits & 0x83FF) | 0x3000).view(np.float16))

    def add_norm(self, name: str) -> None:
        self._writer.add_tensor(name, np.ones(_EMBEDDING, np.float32))


def _writer(shape: Shape) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(None, shape.architecture)
    writer.add_name(shape.name)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(_EMBEDDING)
    writer.add_block_count(_BLOCKS)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(2)
    return writer


def _words() -> list[str]:
    return [f"\u2581{letter}{vowel}" for letter in "bcdfghklmnprstvw" for vowel in "aeiou"]


def _vocabulary_size() -> int:
    return len(_words()) + 3


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: str, tokens: list[str]) -> None:
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(index) for index in range(len(tokens))])
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _feed_forward(weight_bytes: int, *, matrices: int) -> int:
    """The width at which the feed-forward matrices of all blocks make up ``weight_bytes``, at least 32."""
    return max(32, weight_bytes // (_BLOCKS * matrices * _EMBEDDING * _F16_BYTES) // 32 * 32)


def _written(writer: gguf.GGUFWriter) -> bytes:
    with tempfile.TemporaryDirectory(prefix="syncd-gguf-") as folder:
        path = Path(folder, "weights.gguf")
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()
