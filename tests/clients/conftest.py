import itertools

import pytest

from clients.families import CLIENTS, TRANSPORTS, Runner


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp)


@pytest.fixture(scope="module", params=itertools.product(CLIENTS, TRANSPORTS), ids="-".join)
def client_and_transport(request: pytest.FixtureRequest) -> tuple[str, str]:
    client, transport = request.param
    return client, transport
