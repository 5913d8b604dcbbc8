"""The API against its own description: whatever fits it is served, whatever does not is refused."""

from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from serving import KEY, Served

MODEL = "airloom-mathematics"
OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/embeddings", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{model}", "GET"),
    ("/health", "GET"),
]


@pytest.fixture(scope="module")
def description(served: Served) -> Any:
    headers = {"Authorization": f"Bearer {KEY}"}
    raw = httpx.get(f"{served.url}/openapi.json", headers=headers).json()
    for methods in raw["paths"].values():
        for operation in methods.values():
            # Every request shows the right key: none of those that are wrong on purpose lacks it.
            del operation["security"]
    described = schemathesis.openapi.from_dict(raw)
    described.config.update(base_url=served.url)
    assert {
        (operation.ok().path, operation.ok().method.upper())
        for operation in described.get_all_operations()
    } == set(OPERATIONS)
    return described


CASES = [(*operation, GenerationMode.POSITIVE) for operation in OPERATIONS]
CASES += [
    (path, method, GenerationMode.NEGATIVE) for path, method in OPERATIONS if method == "POST"
]


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_every_answer_is_as_described(
    path: str, method: str, mode: GenerationMode, description: Any
) -> None:
    operation = description[path][method]
    statuses = Counter[int]()

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        model = case.body.get("model") if isinstance(case.body, dict) else None
        if isinstance(model, str) and len(model) <= 256:
            # Else nearly all requests would end at the name.
            case.body["model"] = MODEL
            for limit in ("max_tokens", "max_completion_tokens"):
                wanted = case.body.get(limit, -1)
                if wanted is None or (isinstance(wanted, int) and not 0 <= wanted <= 20):
                    case.body[limit] = 20
        response = case.call_and_validate(
            headers={"Authorization": f"Bearer {KEY}"},
            checks=[
                not_a_server_error,
                status_code_conformance,
                content_type_conformance,
                response_schema_conformance,
                negative_data_rejection,
                unsupported_method,
            ],
        )
        statuses[response.status_code] += 1

    check()
    if mode is GenerationMode.POSITIVE and "{" not in path:
        assert statuses[200] > 0
