"""What may be asked: every field has a range, and the error names the field and the value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engines import MakeEngine
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import InvalidTaskError
from device_agent.engine import AdapterUse, GenerateRequest, Image, Sampling
from device_agent.engine.sampling import choose


def prompt(**fields: Any) -> GenerateRequest:
    return GenerateRequest("x", **fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda field=field, value=value: Sampling(**{field: value}), f"^{field} is {value}")
            for field in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty")
            for value in (math.nan, math.inf, -math.inf)
        ),
        (lambda: Sampling(temperature=101.0), "temperature is 101.0: a number up to 100"),
        (lambda: Sampling(top_p=0.0), "top_p is 0.0: above 0"),
        (lambda: Sampling(top_p=-1.0), "top_p is -1.0"),
        (lambda: Sampling(min_p=2.0), "min_p is 2.0: a number from 0 to 1"),
        (lambda: Sampling(min_p=-0.1), "min_p is -0.1"),
        (lambda: Sampling(top_k=1.5), "top_k is 1.5: an integer"),  # type: ignore[arg-type]
        (
            lambda: Sampling(frequency_penalty=2.1),
            "frequency_penalty is 2.1: a number from -2 to 2",
        ),
        (lambda: Sampling(presence_penalty=-3.0), "presence_penalty is -3.0"),
        (lambda: Sampling(seed=-1), "seed is -1: an integer from 0"),
        (lambda: Sampling(seed=2**64), "seed is 18446744073709551616"),
        (lambda: Sampling(logit_bias={1: math.nan}), r"logit_bias\[1\] is nan"),
        (lambda: Sampling(logit_bias={1: 101.0}), r"logit_bias\[1\] is 101.0"),
        (lambda: Sampling(logit_bias={-1: 1.0}), "a token of logit_bias is -1"),
        (lambda: Sampling(logit_bias=dict.fromkeys(range(5000), 1.0)), "5,000 elements"),
        (lambda: AdapterUse("a", math.nan), "adapter 'a': scale is nan"),
        (lambda: AdapterUse("a", 1000.0), "scale is 1000.0: a number from -100 to 100"),
        (lambda: AdapterUse(""), "an adapter's name has 0 characters"),
        (lambda: Image(b""), "an image has 0 bytes"),
        (lambda: prompt(max_tokens=0), "max_tokens is 0: an integer from 1 to 2147483647"),
        (lambda: prompt(max_tokens=2**31), "max_tokens is 2147483648"),
        (lambda: prompt(stop=("",)), r"stop\[0\] has 0 characters: 1 to 256"),
        (lambda: prompt(stop=("a", "b" * 257)), r"stop\[1\] has 257 characters"),
        (lambda: prompt(stop=("a",) * 17), "stop has 17 elements: at most 16"),
        (lambda: prompt(adapters=(AdapterUse("a"),) * 17), "adapters has 17 elements"),
        (lambda: prompt(images=(Image(b"x"),) * 17), "images has 17 elements"),
        (lambda: prompt(top_logprobs=21), "top_logprobs is 21: an integer from 0 to 20"),
        (lambda: prompt(top_logprobs=-1), "top_logprobs is -1"),
        (lambda: prompt(deadline_s=math.nan), "deadline is nan: a finite number"),
        (lambda: prompt(grammar=""), "grammar has 0 characters"),
        (lambda: GenerateRequest("\ud800"), "the prompt is .*UTF-8"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_name(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(InvalidTaskError, match=message):
        make()


def test_values_with_a_conventional_meaning_are_taken() -> None:
    logits = np.array([0.0, 1.0, 3.0, 2.0], np.float32)
    assert choose(logits, Sampling(temperature=-1.0, top_k=-1), 0.99) == 2, "negative is greedy"
    everything = Sampling(temperature=1.0, top_k=-1, top_p=1.5)
    assert choose(logits, everything, 0.999) == choose(logits, Sampling(1.0), 0.999)


numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=32), st.integers(-(2**33), 2**33)
)


@given(
    st.fixed_dictionaries(
        {
            "temperature": numbers,
            "top_k": numbers,
            "top_p": numbers,
            "min_p": numbers,
            "frequency_penalty": numbers,
        }
    ),
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20),
    st.floats(0, 1, exclude_max=True),
)
def test_whatever_sampling_is_taken_chooses_a_token(
    fields: dict[str, Any], logits: list[float], uniform: float
) -> None:
    try:
        sampling = Sampling(**fields)
    except InvalidTaskError:
        return
    assert 0 <= choose(np.array(logits, np.float32), sampling, uniform) < len(logits)


async def test_a_single_precision_value_is_what_it_was_meant_to_be(make_engine: MakeEngine) -> None:
    engine = make_engine()
    sampling = Sampling(temperature=float(np.float32(0.7)), min_p=float(np.float32(0.05)))
    assert (await engine.generate(GenerateRequest("1+1=", sampling=sampling, max_tokens=4))).tokens
