import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parent))
from serving import KEY, PATIENCE_S, Loop, Serve, Served, opened

from device_agent.chat import EngineChat


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(scope="session")
def chat(loop: Loop, registry: CollectorRegistry) -> Iterator[EngineChat]:
    with opened(loop, registry) as chat:
        yield chat


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("http") / "key"
    path.write_text(KEY + "\n")
    return path


@pytest.fixture(scope="session")
def served(
    loop: Loop, chat: EngineChat, registry: CollectorRegistry, key_file: Path
) -> Iterator[Served]:
    """The server that most tests share: one key, and limits that none of them meets."""
    served = Served(loop, chat, registry, api_key_file=key_file)
    yield served
    served.close()


@pytest.fixture
def serve(loop: Loop, chat: EngineChat) -> Iterator[Serve]:
    """Servers with settings of their own, on the same engine."""
    started: list[Served] = []

    def start(**settings: object) -> Served:
        started.append(Served(loop, chat, CollectorRegistry(), **settings))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{served.url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE_S
    )
