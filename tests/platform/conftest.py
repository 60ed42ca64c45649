"""The platform's tests ask a running platform, from outside; `make up` makes one."""

from platform_fixtures import *
