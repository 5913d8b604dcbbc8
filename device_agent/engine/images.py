"""Images in a prompt, through llama.cpp's multimodal library and a projector file (mmproj)."""

from __future__ import annotations

import ctypes
import hashlib
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray

from airloom.errors import InvalidTaskError, ModelLoadError
from device_agent.engine.context import Context, DecodeError
from device_agent.engine.image_size import MAX_PIXELS, image_size
from device_agent.engine.llama_log import collect_errors
from device_agent.engine.model import Model, check_is_gguf, loading
from device_agent.engine.requests import IMAGE_MARK, Image

PLACEHOLDER = -1
"""Stands in a sequence's tokens where an image's embeddings are read instead."""


@dataclass(frozen=True, eq=False)
class ImageSpan:
    """An encoded image's place in a prompt."""

    start: int
    length: int
    positions: int
    """How many positions it takes; fewer than its length where positions are two-dimensional."""
    keys: NDArray[np.int64]
    embedding: NDArray[np.float32]
    chunk: object


class Vision:
    """Encodes images with a projector made for the model.

    Raises:
        ModelLoadError: the projector is missing, broken or made for another model.
    """

    def __init__(self, model: Model, projector: Path, *, threads: int) -> None:
        check_is_gguf(projector)
        self._model = model
        self._encoding = threading.Lock()
        parameters = mtmd_cpp.mtmd_context_params_default()
        parameters.use_gpu = True
        parameters.print_timings = False
        parameters.n_threads = threads
        parameters.warmup = False
        parameters.media_marker = IMAGE_MARK.encode()
        with loading:
            errors = collect_errors()
            native = mtmd_cpp.mtmd_init_from_file(str(projector).encode(), model.native, parameters)
            if not native:
                reason = "; ".join(errors) or "llama.cpp gave no reason"
                raise ModelLoadError(f"{projector}: no projector for {model.path.name}: {reason}")
        self._native = native
        if not mtmd_cpp.mtmd_support_vision(native):
            self.close()
            raise ModelLoadError(f"{projector}: the projector takes no images")

    def close(self) -> None:
        """Free llama.cpp's memory."""
        mtmd_cpp.mtmd_free(self._native)

    def read(self, prompt: str, images: Sequence[Image]) -> tuple[list[int], tuple[ImageSpan, ...]]:
        """Tokenise a prompt with `IMAGE_MARK`s and encode the images that stand there.

        Raises:
            InvalidTaskError: an image cannot be read, or marks and images differ in number.
        """
        if prompt.count(IMAGE_MARK) != len(images):
            raise InvalidTaskError(
                f"the prompt has {prompt.count(IMAGE_MARK)} places for {len(images)} images"
            )
        bitmaps = []
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            for index, image in enumerate(images):
                bitmaps.append(self._bitmap(index, image))
            encoded = prompt.encode()
            text = mtmd_cpp.mtmd_input_text(encoded, len(encoded), True, True)
            pointers = (mtmd_cpp.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
            status = mtmd_cpp.mtmd_tokenize(
                self._native, chunks, ctypes.byref(text), pointers, len(bitmaps)
            )
            if status != 0:
                raise InvalidTaskError(f"the images cannot be prepared (status {status})")
            return self._encode(chunks, images)
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd_cpp.mtmd_bitmap_free(bitmap)

    def _bitmap(self, index: int, image: Image) -> object:
        width, height = image_size(image.data) or (0, 0)
        if width * height > MAX_PIXELS:
            raise InvalidTaskError(
                f"image {index} has {width:,} x {height:,} pixels; at most {MAX_PIXELS:,} are taken"
            )
        bitmap = self._decoded(image) if width and height else None
        if not bitmap:
            raise InvalidTaskError(
                f"image {index} ({len(image.data)} bytes) is not one that can be read; "
                "PNG, JPEG, BMP and GIF can"
            )
        return bitmap

    def _decoded(self, image: Image) -> object:
        data = (ctypes.c_uint8 * len(image.data)).from_buffer_copy(image.data)
        bitmap: object = mtmd_cpp.mtmd_helper_bitmap_init_from_buf(
            self._native, data, len(image.data), False
        )
        return bitmap

    def _encode(
        self, chunks: object, images: Sequence[Image]
    ) -> tuple[list[int], tuple[ImageSpan, ...]]:
        tokens: list[int] = []
        spans: list[ImageSpan] = []
        digest = hashlib.sha256(b"".join(hashlib.sha256(i.data).digest() for i in images)).digest()
        for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
            chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, index)
            length = int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk))
            if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_TEXT:
                size = ctypes.c_size_t()
                ids = mtmd_cpp.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(size))
                tokens += [int(ids[i]) for i in range(size.value)]
                continue
            first = int.from_bytes(digest[:7], "big") + 1_000_003 * index
            kept = mtmd_cpp.mtmd_input_chunk_copy(chunk)
            span = ImageSpan(
                start=len(tokens),
                length=length,
                positions=int(mtmd_cpp.mtmd_input_chunk_get_n_pos(chunk)),
                keys=-1 - (first + np.arange(length, dtype=np.int64)),
                embedding=self._embedding(chunk, length),
                chunk=kept,
            )
            weakref.finalize(span, mtmd_cpp.mtmd_input_chunk_free, kept)
            spans.append(span)
            tokens += [PLACEHOLDER] * length
        if tokens and tokens[-1] == PLACEHOLDER:
            raise InvalidTaskError("a prompt cannot end in an image: text must follow")
        return tokens, tuple(spans)

    def _embedding(self, chunk: object, length: int) -> NDArray[np.float32]:
        width = int(llama_cpp.llama_model_n_embd_inp(self._model.native))
        with self._encoding:
            status = mtmd_cpp.mtmd_encode_chunk(self._native, chunk)
            if status != 0:
                raise DecodeError(f"llama.cpp could not encode an image (status {status})")
            output = mtmd_cpp.mtmd_get_output_embd(self._native)
            encoded: NDArray[np.float32] = np.ctypeslib.as_array(
                output, shape=(length * width,)
            ).copy()
        return encoded

    def decode(self, context: Context, span: ImageSpan, position: int, sequence: int) -> None:
        """Read an encoded image into a sequence's memory."""
        after = llama_cpp.llama_pos()
        status = mtmd_cpp.mtmd_helper_decode_image_chunk(
            self._native,
            context.native,
            span.chunk,
            span.embedding.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            position,
            sequence,
            context.batch_tokens,
            ctypes.byref(after),
            mtmd_cpp.mtmd_helper_post_decode_callback(),
            None,
        )
        if status != 0:
            raise DecodeError(f"llama.cpp could not read an image (status {status})")
