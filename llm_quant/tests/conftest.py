from collections.abc import Iterator

import pytest

from llm_quant import native


def has(level: str) -> bool:
    if native.level() is None:
        return False
    try:
        return native.choose(level) == level
    except ValueError:
        return False
    finally:
        native.choose(None)


LEVELS = [
    pytest.param(name, marks=pytest.mark.skipif(not has(name), reason=f"no {name} kernels on this machine"))
    for name in native.LEVELS
]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    yield native.choose(request.param)
    native.choose(None)


@pytest.fixture(scope="session")
def levels() -> Iterator[list[str]]:
    """The levels of this processor."""
    yield [name for name in native.LEVELS if has(name)]
    if native.level() is not None:
        native.choose(None)
