"""The platform's tests ask a running platform, from outside; `make up` makes one."""

from platform_fixtures import (
    anonymous,
    platform,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_setup,
    user,
)
