"""The document that describes the service: valid, true to what is answered, and enough to write a client from."""

import json
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from serving.answering.predictor import Predictor
from serving.http.openapi import OPERATIONS, Operation

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

MUST_HOLD = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance",
]  # fmt: skip
NUM_EXAMPLES = 25
READ_ONLY = [each for each in OPERATIONS if each.name != "metrics"]  # its answer is not ours


@pytest.fixture(scope="module")
def document(keeping: httpx.Client) -> dict[str, Any]:
    answer = keeping.get("/docs.json")
    assert answer.status_code == 200
    return answer.json()


def test_it_is_valid_openapi_and_names_every_route(document: dict[str, Any]) -> None:
    from serving.http import page
    from serving.service import ROUTES, Leitmotif

    assert document["openapi"].startswith("3.1.")
    validate(document, cls=OpenAPIV31SpecValidator)
    apis = {method.route for method in Leitmotif.apis.values()}
    own = {route.path.replace(":path", "") for route in ROUTES if route not in page.ROUTES} - {"/docs.json"}
    assert apis | own | {"/livez", "/readyz", "/metrics"} == document["paths"].keys()


def test_a_null_stays_one_and_limits_are_the_bundles(document: dict[str, Any], predictor: Predictor) -> None:
    schemas = document["components"]["schemas"]
    assert {"type": "null"} in schemas["RankReply"]["properties"]["impression_id"]["anyOf"]
    assert {"type": "null"} in schemas["RankedItem"]["properties"]["theme"]["anyOf"]
    assert schemas["RankRequest"]["properties"]["candidates"]["maxItems"] == predictor.limits.max_candidates
    assert schemas["RankRequest"]["properties"]["user_id"]["maxLength"] == predictor.limits.max_id_length
    assert schemas["RankRequest"]["required"] == ["user_id", "candidates"]


@pytest.mark.parametrize("each", OPERATIONS, ids=lambda each: each.name)
def test_every_refusal_has_the_one_form_and_every_example_fits(document: dict[str, Any], each: Operation) -> None:
    described = document["paths"][each.path][each.method]
    for status, answer in described["responses"].items():
        (content,) = answer["content"].values()
        if status != "200":
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorReply"}
            assert ("retry-after" in answer.get("headers", {})) == (status in ("429", "503"))
        if "example" in content:
            jsonschema.validate(content["example"], content["schema"] | {"components": document["components"]})
    if each.asked is not None:
        each.asked.model_validate(each.example.asked)
    if each.reply is not None:
        each.reply.model_validate(each.example.reply)


def test_the_examples_are_answered(keeping: httpx.Client) -> None:
    for each in OPERATIONS:
        if each.method == "post":
            assert keeping.post(each.path, json=each.example.asked).status_code == 200
        else:
            query = {name: value for name, value in each.example.asked.items() if f"{{{name}}}" not in each.path}
            query |= {name: ",".join(value) for name, value in query.items() if isinstance(value, list)}
            assert keeping.get(each.path.format(**each.example.asked), params=query).status_code == 200


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fits", "does not fit"])
@pytest.mark.parametrize("each", READ_ONLY, ids=lambda each: each.name)
def test_whatever_is_sent_the_answer_is_as_documented(
    keeping: httpx.Client, document: dict[str, Any], each: Operation, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(document)))
    operation = schema[each.path][each.method.upper()]
    if mode is GenerationMode.NEGATIVE and each.asked is None:
        pytest.skip("it asks for nothing")
    load_all_checks()
    checks = CHECKS.get_by_names(MUST_HOLD)

    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def sent(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=str(keeping.base_url).rstrip("/"), checks=checks)

    sent()
