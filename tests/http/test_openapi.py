"""The API against its own description: whatever fits it is served, whatever does not is refused."""

from collections import Counter
from typing import Any

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
    described = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
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
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            # Else nearly all requests would end at the name.
            case.body["model"] = MODEL
            wanted = case.body.get("max_tokens")
            if isinstance(wanted, int) and wanted > 20:
                case.body["max_tokens"] = 20
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
